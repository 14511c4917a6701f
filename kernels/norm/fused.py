"""Norms through torch's own operators, where they round as the reference does."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..kernel import Request


def _weight_is_per_feature(request: Request, name: str) -> bool:
    head_dim = request.fields.get("head_dim")
    return head_dim is None or name not in request.shapes or request.shapes[name] == (head_dim,)


def serves_rms_norm(request: Request) -> str | None:
    """None, or why torch's rms_norm would not give the reference's numbers."""
    if request.fields.get("weight_offset", 0.0) != 0.0:
        return "torch's rms_norm has no weight offset"
    if "weight" in request.shapes and request.dtype in ("bfloat16", "float16"):
        return f"torch's rms_norm rounds to {request.dtype} after the weight, the reference before it"
    if not _weight_is_per_feature(request, "weight"):
        return "torch's rms_norm has one weight for all heads"
    return None


def serves_layer_norm(request: Request) -> str | None:
    """None, or why torch's layer_norm would not give the reference's numbers."""
    if not all(_weight_is_per_feature(request, name) for name in ("weight", "bias")):
        return "torch's layer_norm has one weight for all heads"
    return None


def rms_norm(
    *, x: Tensor, weight: Tensor | None = None, eps: float, weight_offset: float = 0.0, head_dim: int | None = None
) -> Tensor:
    """`reference.rms_norm` where `weight_offset` is 0; raises ValueError where it is not."""
    if weight_offset != 0.0:
        raise ValueError("torch's rms_norm has no weight offset")
    if head_dim is None:
        return functional.rms_norm(x, x.shape[-1:], weight, eps)
    return functional.rms_norm(x.view(*x.shape[:-1], -1, head_dim), (head_dim,), weight, eps).flatten(-2)


def layer_norm(
    *, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float, head_dim: int | None = None
) -> Tensor:
    """`reference.layer_norm`."""
    if head_dim is None:
        return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
    return functional.layer_norm(x.view(*x.shape[:-1], -1, head_dim), (head_dim,), weight, bias, eps).flatten(-2)


def add_rms_norm(
    *, delta: Tensor, residual: Tensor, weight: Tensor | None = None, eps: float, weight_offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`reference.add_rms_norm` where `weight_offset` is 0."""
    total = residual + delta
    return rms_norm(x=total, weight=weight, eps=eps, weight_offset=weight_offset), total


def add_layer_norm(
    *, delta: Tensor, residual: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float
) -> tuple[Tensor, Tensor]:
    """`reference.add_layer_norm`."""
    total = residual + delta
    return layer_norm(x=total, weight=weight, bias=bias, eps=eps), total
