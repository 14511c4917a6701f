"""Linear layers whose weights are -1, 0 or 1 times one scale."""
