"""What generated cases of the kernels in C are drawn of: widths, gaps between rows, rows, dtypes, values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.native.node import Rows

from .emitted_case import Case, Value

Builder = Callable[[st.DrawFn], Case]
WIDTHS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 48, 64, 100)
KINDS = ("gelu", "gelu_tanh", "gelu_quick", "relu", "relu2", "silu", "sigmoid", "tanh", "softplus", "exp", "identity")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def any_of(draw: st.DrawFn, *options: object) -> object:
    return draw(st.sampled_from(options))


def width(draw: st.DrawFn) -> int:
    return draw(st.sampled_from(WIDTHS))


def gap(draw: st.DrawFn) -> int:
    """Numbers between rows."""
    return draw(st.sampled_from([0, 0, 1, 7]))


def rows(draw: st.DrawFn) -> Rows:
    return draw(st.sampled_from(["tokens", "tokens", "tokens", "batch", "one"]))


def shape(draw: st.DrawFn) -> tuple[int, ...]:
    """The axes of a row: one, or two."""
    outer = draw(st.sampled_from([0, 0, 1, 3]))
    return (outer, width(draw)) if outer else (width(draw),)


def value(draw: st.DrawFn, axes: tuple[int, ...], kind: Rows = "tokens") -> Value:
    return Value(shape=axes, rows=kind, gap=gap(draw))


def positive(axes: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(axes, generator=generator) + 0.1


def ids_below(count: int) -> Callable[[tuple[int, ...], torch.Generator], Tensor]:
    return lambda axes, generator: torch.randint(-1, count, axes, generator=generator)


def dtype_of(draw: st.DrawFn) -> torch.dtype:
    return draw(st.sampled_from(DTYPES))


def small(draw: st.DrawFn) -> int:
    return draw(st.sampled_from([1, 3, 8, 16, 17, 20, 33]))


def scaled(axes: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Weights that keep the size of what they multiply."""
    return torch.randn(axes, generator=generator) / axes[-1] ** 0.5
