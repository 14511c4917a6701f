"""Ops that treat each token, and mostly each element, alone."""
