"""Routing among adapters that were trained before: certified, searched in stages, served."""
