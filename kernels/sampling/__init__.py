"""From logits to tokens on the device, every request with its own settings."""
