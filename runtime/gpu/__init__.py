"""How a Program runs on a GPU: few prompt lengths, one CUDA graph a decoded token, caches that graphs can keep."""
