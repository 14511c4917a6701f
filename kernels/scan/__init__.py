"""Linear recurrences over a matrix of state per head."""
