"""How a Triton kernel becomes an operator of torch, so that it survives export, compilation and autograd."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from functools import wraps
from itertools import islice
from typing import Any, cast, get_type_hints

import torch
from torch._library.custom_ops import CustomOpDef

from .gradients import with_reference

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

    All three take the same arguments, annotated with the types of a torch schema (Tensor, Tensor | None, int, float,
    bool, str, list[Tensor]) or with a NamedTuple of them, which the operator takes item by item: call it with
    `*record`. An output must not be a view of an input, nor an input. Under the interpreter CPU tensors run the kernel
    itself. Give gradients by `gradients.register_gradients`; there an operator whose launch does not compile runs its
    reference.
    """
    launch, fake, reference = _by_items(launch), _by_items(fake), _by_items(reference)
    mutates_args = tuple(mutates_args)
    if not mutates_args:
        launch = with_reference(name, launch, reference)
    operator = cast("CustomOpDef", torch.library.triton_op(f"{NAMESPACE}::{name}", launch, mutates_args=mutates_args))
    operator.register_fake(fake)
    if not is_interpreted():
        operator.register_kernel("cpu")(reference)
    return operator


def _by_items(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the items of its records as arguments of their own, as a torch schema has them."""
    hints = get_type_hints(function)
    kinds = {name: hints[name] for name in inspect.signature(function).parameters}
    items: dict[str, object] = {}
    for name, kind in kinds.items():
        items |= get_type_hints(kind) if hasattr(kind, "_fields") else {name: kind}
    if len(items) == len(kinds):
        return function

    @wraps(function)
    def by_items(*values: Any) -> Any:
        left = iter(values)
        records = ((kind, getattr(kind, "_fields", None)) for kind in kinds.values())
        return function(*(next(left) if names is None else kind(*islice(left, len(names))) for kind, names in records))

    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=t) for n, t in items.items()]
    cast("Any", by_items).__signature__ = inspect.Signature(parameters, return_annotation=hints["return"])
    return by_items
