"""How much a chat template may make: the weight of one value, and of all values of one rendering together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final, TypeVar, cast

from jinja2.runtime import LoopContext

MAX_VALUE: Final = 2 * 1024 * 1024
"""Characters plus elements of one value, with everything in it counted as often as it occurs."""
MAX_WORK: Final = 256 * 1024 * 1024
"""Characters plus eight times elements of all values that one rendering makes."""

Value = TypeVar("Value")


class TooMuchError(Exception):
    """The template asked for more than the limits allow; the message says what for."""


def weight(value: object) -> int:
    """Characters and elements of a value as if it were printed, shared parts each time; raises over `MAX_VALUE`."""
    total = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str | bytes):
            total += len(item) + 1
        elif isinstance(item, Mapping):
            mapping = cast("Mapping[object, object]", item)
            total += 2 * len(mapping) + 1
            if total <= MAX_VALUE:
                stack.extend(mapping)
                stack.extend(mapping.values())
        elif isinstance(item, Collection) and not isinstance(item, range):
            collection = cast("Collection[object]", item)
            total += len(collection) + 1
            if total <= MAX_VALUE:
                stack.extend(collection)
        else:
            total += 1
        if total > MAX_VALUE:
            raise TooMuchError(f"a value of more than {MAX_VALUE} characters and elements")
    return total


def listed(value: object) -> object:
    """An iterator as a list, so that nothing unweighed hides in it; any other value as it is."""
    if isinstance(value, Iterator) and not isinstance(value, LoopContext):
        return list(cast("Iterator[object]", value))
    return value


class Work:
    """What is left of one rendering's budget."""

    def __init__(self) -> None:
        self._left = MAX_WORK

    def require_room(self, size: int) -> None:
        """Refuse a text of `size` characters before it is made."""
        if size > MAX_VALUE:
            raise TooMuchError(f"a text of {size} characters")

    def add(self, value: Value) -> Value:
        """`value`, once it has been weighed and counted."""
        if isinstance(value, str):
            self._spend(len(value))
            self.require_room(len(value))
            return value
        given: object = value
        if isinstance(given, list | tuple | dict):
            self._spend(8 * len(cast("Collection[object]", given)))
            weight(cast(object, given))
        return value

    def _spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise TooMuchError(f"values of more than {MAX_WORK} characters together")
