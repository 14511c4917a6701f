"""A kernel that does not compile on the GPU at hand is set aside with one warning, and the next one runs."""

# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TypeAlias

Loader: TypeAlias = Callable[[], Callable[..., object]]
"""Gives an implementation, imported when it is wanted."""

_PLACE: ContextVar[str] = ContextVar("place", default="")
"""The node that runs in this thread."""


def place_of_call() -> str:
    """The node whose kernel runs, as a reader of the spec knows it; empty outside of `guarded`."""
    return _PLACE.get()


def guarded(place: str, kernels: Sequence[tuple[str, Loader]]) -> Callable[..., object]:
    """A function that runs the first kernel, and from the first failure to compile on the one after it.

    place: the node as a reader of the spec knows it, `layers.attend (attend_cached, specs/x.yaml:65)`; kernels: names
    and implementations in order of preference, the reference last. Errors of any other kind are raised. To
    torch's compiler it is the kernel in use, for nothing has run when that compiles.
    """
    import torch

    left = list(kernels)
    function = left[0][1]()

    @functools.wraps(function)
    def run(**operands: object) -> object:
        nonlocal function
        if torch.compiler.is_compiling():
            return function(**operands)
        before = _PLACE.set(place)
        try:
            while True:
                try:
                    return function(**operands)
                except Exception as error:
                    if len(left) == 1 or not is_compile_failure(error):
                        raise
                    name, _ = left.pop(0)
                    function = left[0][1]()
                    warnings.warn(
                        f"{place}: kernel {name} does not compile here and is set aside for {left[0][0]}"
                        f" ({described(operands)}): {first_line(error)}",
                        RuntimeWarning,
                        stacklevel=2,
                    )
        finally:
            _PLACE.reset(before)

    return run


def is_compile_failure(error: BaseException) -> bool:
    """Whether Triton or ptxas gave up on a kernel: nothing of it has run."""
    from triton.errors import TritonError

    return isinstance(error, TritonError) or (
        isinstance(error, RuntimeError) and "PassManager::run failed" in str(error)
    )


def described(operands: dict[str, object]) -> str:
    """Shapes, dtypes and settings of a call: what a report of the failure needs."""
    from torch import Tensor

    parts: list[str] = []
    for name, value in operands.items():
        if isinstance(value, Tensor):
            parts.append(f"{name} {list(value.shape)} {str(value.dtype).removeprefix('torch.')}")
        elif isinstance(value, (int, float, str)):
            parts.append(f"{name}={value}")
    return ", ".join(parts)


def first_line(error: BaseException) -> str:
    """The kind of an error, and the first line of what it says."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
