"""One measurement on a GPU: our kernel as the compiler picks it, its rivals, and the least that must be moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor

from ....kernels.kernel import Phase, Request
from ....kernels.registry import kernels_for

Run: TypeAlias = Callable[[], object]
Builder: TypeAlias = "Callable[[], Case]"
"""Allocates the operands of one case; the one before is let go first."""
Bound: TypeAlias = Literal["bandwidth", "matmul"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`bytes` and `flops` are the least that must be moved and computed; `bound` says which of the two is the floor.

    rivals: what else computes the same, or the reason why it is not there.
    """

    target: str
    """A row of the targets: `G2`."""
    name: str
    kernel: str
    ours: Run
    bytes: float
    flops: float
    bound: Bound
    rivals: Mapping[str, Run | str] = field(default_factory=dict[str, "Run | str"])
    compares: bool = True
    """Whether our output is held against the first rival's."""
    goal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """`tiny`: the smallest that still run every path, for a test without a GPU."""

    device: torch.device
    dtype: torch.dtype
    is_tiny: bool

    def pick(self, real: int, tiny: int) -> int:
        """A size of the measurement, or of the test."""
        return tiny if self.is_tiny else real

    def randn(self, *shape: int) -> Tensor:
        """Normal numbers of the benchmark's dtype."""
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def positions(self, batch: int, tokens: int, first: int = 0) -> Tensor:
        """`[B, T]` int64, the next positions from `first`."""
        return torch.arange(first, first + tokens, device=self.device).expand(batch, tokens).contiguous()


def picked(
    op: str, phase: Phase, sizes: Sizes, operands: Mapping[str, object], *, format: str = "", **others: object
) -> tuple[str, Callable[..., object]]:
    """The name and the function of the kernel that the compiler takes for such a node on this GPU.

    format: of a packed weight; others: fields that are no operands.
    """
    fields = {name: value for name, value in operands.items() if not isinstance(value, (Tensor, tuple))} | others
    shapes = {name: tuple(value.shape) for name, value in operands.items() if isinstance(value, Tensor)}
    request = Request(
        op=op,
        fields=fields,
        shapes=cast("Mapping[str, tuple[int | str, ...]]", shapes),
        dtype=str(sizes.dtype).removeprefix("torch."),
        device="cuda" if sizes.device.type == "cuda" else "cuda:sm_90",
        phase=phase,
        format=format,
    )
    for kernel in kernels_for(op):
        if kernel.format == format and kernel.refusal(request) is None:
            return kernel.name, kernel.function()
    raise LookupError(f"no kernel serves {op} in {phase}")


def forward_and_backward(run: Callable[[], object], leaves: Sequence[Tensor], grad: Tensor) -> Run:
    """The gradients of all leaves, from an output of one tensor."""

    def both() -> object:
        with torch.enable_grad():
            return torch.autograd.grad(cast("Tensor", run()), leaves, grad)

    return both


def first_tensor(result: object) -> Tensor | None:
    """The main output of a kernel or a rival."""
    if isinstance(result, tuple):
        result = cast("tuple[object, ...]", result)[0]
    return result if isinstance(result, Tensor) else None
