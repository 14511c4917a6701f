"""How a Triton kernel becomes an operator of torch, so that it survives export, compilation and autograd."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch._library.custom_ops import CustomOpDef

NAMESPACE = "llmc"


def is_interpreted() -> bool:
    """Kernels run in Triton's interpreter, on CPU tensors. Set before a kernel's module is imported."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def launchable(kernel: Any) -> Any:
    """A `triton.jit` function as an operator's body launches it: visible to torch's compiler."""
    return kernel if is_interpreted() else torch.library.wrap_triton(kernel)


def gpu_op(
    name: str,
    launch: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    reference: Callable[..., Any],
    mutates_args: Iterable[str] = (),
) -> CustomOpDef:
    """`torch.ops.llmc.<name>`: `launch` on a GPU, `reference` on a CPU, `fake` for shapes alone.

    All three take the same arguments; those of `launch` are annotated with the types of a torch schema (Tensor,
    Tensor | None, int, float, bool, str, list[Tensor]). An output must not be a view of an input, nor an input. Under
    the interpreter CPU tensors run the kernel itself. Give gradients with the result's `register_autograd`.
    """
    operator = cast("CustomOpDef", torch.library.triton_op(f"{NAMESPACE}::{name}", launch, mutates_args=mutates_args))
    operator.register_fake(fake)
    if not is_interpreted():
        operator.register_kernel("cpu")(reference)
    return operator
