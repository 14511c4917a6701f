"""The CPU backend: a fused Program becomes one plain C file, one function per definition."""
