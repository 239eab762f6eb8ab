"""Where documents come from, and which serves which purpose."""
