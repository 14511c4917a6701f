"""What a kernel is: an implementation of one op, and the reason why it cannot serve a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Literal, TypeAlias, cast

from .gpu.target import refusal as refusal_of_device

Phase: TypeAlias = Literal["prefill", "decode", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One node that looks for a kernel, before any tensor exists."""

    op: str
    fields: Mapping[str, object]
    """The evaluated fields; an absent one has the reference's default."""
    shapes: Mapping[str, tuple[int | str, ...]]
    """By port and parameter, absent optional ones left out; a size known only at run time is its letter."""
    dtype: str
    """The model's dtype: `float32`, `bfloat16`, `float16`, `float64`."""
    device: str
    """`cpu`, `cuda`, or with the architecture `cuda:sm_90`."""
    phase: Phase
    format: str = ""
    """How the weight is to be packed: `int8`, `int4`, `int4_128`, `ternary`; empty: it is not."""


@cache
def resolve(target: str) -> Callable[..., object]:
    """The function that `module:name` under `llmc.kernels` names; its module is imported on first use."""
    module, _, name = target.partition(":")
    return cast("Callable[..., object]", getattr(import_module(f".{module}", __package__), name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """An implementation of `op` with the keyword arguments of its reference. Functions are named for `resolve`."""

    name: str
    op: str
    implementation: str
    serves: str
    """A function of a `Request` that gives None, or the reason why the kernel cannot run."""
    is_triton: bool = False
    """It needs a GPU and triton: elsewhere its module is not even imported."""
    prepares: Mapping[str, str] = field(default_factory=dict[str, str])
    """By argument, the function that makes of a parameter what the kernel reads in its place: packed weights. It is
    applied once, when the program is bound. The model keeps its parameter. Where the node has a field `parts`, the rows
    of the matrices that stand in its parameter, the function takes them too."""
    packed_as: str = ""
    """How machine code packs the weight that it prepares: `linear.triton_repack` makes the one of the other."""
    format: str = ""
    """The format of weights that it is asked for: a node whose weight has none asks kernels that have none."""
    plain: str = ""
    """Where there are such arguments: the same in torch, for a GPU that the kernel does not compile for."""

    def function(self) -> Callable[..., object]:
        """The implementation."""
        return resolve(self.implementation)

    def refusal(self, request: Request) -> str | None:
        """None where the kernel serves the request, else why not."""
        if self.is_triton and (reason := refusal_of_device(request.device)) is not None:
            return reason
        return cast("str | None", resolve(self.serves)(request))
