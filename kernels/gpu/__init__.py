"""What Triton kernels share: their registration with torch, the GPUs they know, and their tuned launch parameters."""
