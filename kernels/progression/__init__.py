"""Numbers that follow from sizes alone."""
