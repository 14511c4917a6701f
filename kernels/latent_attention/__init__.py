"""Attention over keys and values that are made of one cached latent per token."""
