"""What was measured and what was promised: the report's schema, its verdicts, and how they are put in words."""
