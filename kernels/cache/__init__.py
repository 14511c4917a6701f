"""Appending a call's tokens to a cache of keys and values."""
