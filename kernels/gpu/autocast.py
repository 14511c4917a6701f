"""Under torch's autocast the matrix products of a kernel run in its dtype, as those of torch do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

PRODUCTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "attention": ("q", "k", "v"),
        "attend_shared": ("q", "keys", "values"),
        "latent_attention": ("q_nope", "q_rope", "latent", "k_rope", "kv_up"),
        "scan": ("v", "k", "q"),
        "experts": (
            "x",
            *(f"{name}_proj{end}" for name in ("gate", "up", "gate_up", "down") for end in ("", "_bias")),
        ),
        "linear_cross_entropy": ("hidden", "weight"),
    }
)
"""By op, the operands of its products, which are of one dtype."""


def cast_products(op: str, kernel: Callable[..., object]) -> Callable[..., object]:
    """A kernel of the op whose operands in `PRODUCTS` are cast where autocast is on; others go as they come."""
    products = PRODUCTS.get(op)
    if products is None:
        return kernel

    @functools.wraps(kernel)
    def run(**operands: object) -> object:
        found = {name: value for name, value in operands.items() if name in products and isinstance(value, Tensor)}
        device = next((value.device.type for value in found.values()), "cpu")
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            operands |= {name: value.to(dtype) for name, value in found.items()}
        return kernel(**operands)

    return run
