"""The loss of next tokens, fused with the head that makes the logits."""
