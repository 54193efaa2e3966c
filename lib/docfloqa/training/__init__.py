"""Making one run."""
