"""Runs and methods side by side."""
