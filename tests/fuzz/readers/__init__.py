"""Readers under test, one a module: each has a `TARGET`."""
