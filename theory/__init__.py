"""Bounds on the retrieval error of Gaussian-mixture signatures."""
