"""Using what was made."""
