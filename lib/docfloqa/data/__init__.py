"""Documents and questions."""
