"""Signatures, query laws and heads: from embeddings to the task."""
