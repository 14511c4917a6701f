"""A dense projection."""
