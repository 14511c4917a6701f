"""Normalisation over features or over heads."""
