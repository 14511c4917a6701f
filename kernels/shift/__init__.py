"""Each token reads the one before it."""
