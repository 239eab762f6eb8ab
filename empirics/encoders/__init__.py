"""Frozen encoders of text and images, cut where adapters begin."""
