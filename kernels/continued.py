"""Functions that read tokens in order: from a row's first one, or on from a state, which they update in place.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Shift:                    # its arguments
        x: Tensor

    @dataclass(frozen=True, slots=True, kw_only=True)
    class ShiftFrom(Shift):         # and the state, for type checkers
        state: State

    @continued(Shift, ShiftFrom)
    def token_shift(given: Shift, state: Tensor | None) -> tuple[Tensor, Tensor | None]: ...

    token_shift(x=x)                        # what is read
    token_shift(x=x, state=(last,))         # and the state, which then holds what comes after

The function itself gives the state that comes after: another tensor, the state itself, or nothing where it stays as it
is or none was given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

from torch import Tensor

State: TypeAlias = tuple[Tensor]
Alone = ParamSpec("Alone")
From = ParamSpec("From")
Made = TypeVar("Made")


class Continued(Protocol[Made, Alone, From]):
    """A function of a record, called by the record's fields, with or without a state; `of` is the function itself."""

    of: Callable[[Made, Tensor | None], tuple[Tensor, Tensor | None]]

    @overload
    def __call__(self, *args: Alone.args, **kwargs: Alone.kwargs) -> Tensor: ...
    @overload
    def __call__(self, *args: From.args, **kwargs: From.kwargs) -> tuple[Tensor, State]: ...


def continued(
    record: Callable[Alone, Made], record_from: Callable[From, object]
) -> Callable[[Callable[[Made, Tensor | None], tuple[Tensor, Tensor | None]]], Continued[Made, Alone, From]]:
    """The signature that is inspected is that of `record_from`, its state optional."""

    def of(function: Callable[[Made, Tensor | None], tuple[Tensor, Tensor | None]]) -> Continued[Made, Alone, From]:
        make = cast("Any", record)

        @wraps(function)
        def by_fields(*, state: State | None = None, **fields: Any) -> Tensor | tuple[Tensor, State]:
            given = make(**fields)
            if state is None:
                return function(given, None)[0]
            (held,) = state
            # gradients need the state as it was, beside what is written over it
            out, after = function(given, held.clone() if held.requires_grad else held)
            if after is not None and after is not held:
                held.copy_(after)
            return out, state

        made = cast("Any", by_fields)
        parameters = inspect.signature(record_from).parameters
        optional = {**parameters, "state": parameters["state"].replace(default=None)}
        made.of, made.__signature__ = function, inspect.Signature(list(optional.values()))
        return made

    return of
