"""Arguments that several functions share are said once, in a record: a frozen dataclass, one field an argument.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Law:                      # what `rope`, `rope_table` and their kernels have in common
        theta: float = 10000.0

    @dataclass(frozen=True, slots=True, kw_only=True)
    class RopeTable(Law):           # and what `rope_table` takes beside it
        position: Tensor

    @called_with(RopeTable)
    def rope_table(x: RopeTable) -> Tensor: ...

    rope_table(position=position, theta=1e6)    # as graphs and tests call it: by keywords, which type checkers know
    rope_table.of(x)                            # as its neighbours call it, who have the record

A kernel is called with its reference's record, so that it takes its reference's arguments and no list of them again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")
Result = TypeVar("Result")


class Called(Protocol[Arguments, Made, Result]):
    """A function of a record, called by the record's fields; `of` is the function itself."""

    of: Callable[[Made], Result]

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result: ...


def called_with(
    record: Callable[Arguments, Made],
) -> Callable[[Callable[[Made], Result]], Called[Arguments, Made, Result]]:
    """`function(field=…)` for `function(record(field=…))`. The signature that is inspected is the record's."""

    def of(function: Callable[[Made], Result]) -> Called[Arguments, Made, Result]:
        @wraps(function)
        def by_fields(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            return function(record(*args, **kwargs))

        made = cast("Any", by_fields)
        given, own = inspect.signature(record), inspect.signature(function)
        made.of, made.__signature__ = function, given.replace(return_annotation=own.return_annotation)
        return made

    return of


def shared(x: object, record: type) -> dict[str, Any]:
    """What x says of another record's fields, by name: `Wide(more=1, **shared(x, Narrow))`."""
    return {name: getattr(x, name) for name in _names(record)}


def changed(x: Made, **others: object) -> Made:
    """A record with other values in some fields, as `dataclasses.replace` gives it; torch's compiler follows this."""
    return type(x)(**{**shared(x, type(x)), **others})


def _names(record: type) -> tuple[str, ...]:
    return tuple(cast("Any", record).__dataclass_fields__)


cast("Any", _names)._dynamo_marked_constant = True
"""torch's compiler takes the names as they are (`torch.compiler.assume_constant_result`, without importing torch)."""
