"""What is written and read: whole files or none, manifests, folders that are claimed, and which fields are times."""
