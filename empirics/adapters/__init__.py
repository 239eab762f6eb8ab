"""Adapters: their algebra, their training, PEFT's files, and many of them in one pass."""
