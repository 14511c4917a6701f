"""Depthwise causal convolution over the last few tokens."""
