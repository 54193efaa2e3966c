"""Documents that the project draws."""
