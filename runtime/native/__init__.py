"""Runs a Program as machine code: compiler and object cache, the bound library, the executor."""
