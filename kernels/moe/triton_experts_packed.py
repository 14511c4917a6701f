"""Experts on packed weights: in Triton, for few tokens or many, which both read the packed bytes, and in torch."""

# pyright: basic
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..kernel import Request
from ..record import called_with
from . import triton_experts
from .fields import Experts
from .operands import Operands
from .triton_experts import FEW
from .triton_experts_packed_decode import packed_experts_of_few
from .triton_experts_packed_grouped import packed_experts_of_many
from .triton_experts_ternary import WIDEST
from .triton_stack import packed_by_reference


def serves(request: Request) -> str | None:
    """None, or why packed experts cannot run: as plain ones, or rows wider than a program rounds."""
    if (reason := triton_experts.serves(request)) is not None:
        return reason
    widest = max(size for size in request.shapes["down_proj"][1:] if isinstance(size, int))
    if request.format == "ternary" and widest > WIDEST:
        return f"a row of {widest} features is wider than {WIDEST}"
    return None


def _kernel(run: Callable[[str, Experts], Tensor], format: str) -> Callable[..., Tensor]:
    """`run` of a format with the arguments of the reference."""

    @called_with(Experts)
    def packed_experts(given: Experts) -> Tensor:
        """The stacks are those of `triton_stack`, outputs first whatever the layout was."""
        return run(format, replace(given, layout="out_in"))

    return packed_experts


def _in_triton(format: str, given: Experts) -> Tensor:
    """Up to one pick for each expert, or `FEW`, weights are read for each pick."""
    is_few = given.experts.numel() <= max(FEW, len(given.down_proj))
    return (packed_experts_of_few if is_few else packed_experts_of_many)(*Operands.of(given), format)


def _in_torch(format: str, given: Experts) -> Tensor:
    """By the reference, on whole stacks."""
    return packed_by_reference(Operands.of(given), format)


int8, int4, int4_128, ternary = (_kernel(_in_triton, one) for one in ("int8", "int4", "int4_128", "ternary"))
int8_torch, int4_torch, int4_128_torch, ternary_torch = (
    _kernel(_in_torch, one) for one in ("int8", "int4", "int4_128", "ternary")
)
