"""Softmax attention, whole or over cached keys."""
