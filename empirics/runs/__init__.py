"""A run in its stages, from documents to the report, and its folder."""
