"""Where the tiny model comes from."""
