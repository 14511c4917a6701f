"""A kernel of a backward pass that does not compile is set aside with one warning, and its operator's reference runs.

The forward of a node has other kernels behind its own (`set_aside`); its gradients are those of the kernel that ran, so
what stands behind an operator of its backward is that operator's reference.
"""

# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from .set_aside import described, first_line, is_compile_failure, place_of_call

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef

_BACKWARD: ContextVar[str | None] = ContextVar("backward", default=None)
"""The node whose gradients this thread computes; None outside of that."""


def register_gradients(
    operator: CustomOpDef, gradients: Callable[..., Any], *, setup_context: Callable[..., None]
) -> None:
    """`operator.register_autograd`, by which operators that `gradients` calls fall back on their references.

    A warning there names the node of the forward, which the operator is called for.
    """

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.place = place_of_call()
        setup_context(ctx, inputs, output)

    @wraps(gradients)
    def guarded(ctx: Any, *given: Any) -> Any:
        before = _BACKWARD.set(ctx.place)
        try:
            return gradients(ctx, *given)
        finally:
            _BACKWARD.reset(before)

    cast("Any", operator).register_autograd(guarded, setup_context=keep)


def with_reference(name: str, launch: Callable[..., Any], reference: Callable[..., Any]) -> Callable[..., Any]:
    """`launch`, of an operator that changes no argument; while gradients are computed, from the first failure to
    compile on the reference, at the node where that happened."""
    aside = set[str]()

    @wraps(launch)
    def launched(*values: Any) -> Any:
        place = _BACKWARD.get()
        if place is None:
            return launch(*values)
        if place not in aside:
            try:
                return launch(*values)
            except Exception as error:
                if not is_compile_failure(error):
                    raise
                aside.add(place)
                given = dict(zip(inspect.signature(launched).parameters, values, strict=False))
                warnings.warn(
                    f"{place or 'gradients'}: kernel {name} does not compile here and is set aside for its reference"
                    f" ({described(given)}): {first_line(error)}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return reference(*values)

    hints, signature = get_type_hints(launch), inspect.signature(launch)
    typed = [one.replace(annotation=hints.get(one.name, one.annotation)) for one in signature.parameters.values()]
    returns = hints.get("return", signature.return_annotation)
    cast("Any", launched).__signature__ = signature.replace(parameters=typed, return_annotation=returns)
    return launched
