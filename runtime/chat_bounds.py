"""Before an operator or a text method of a chat template runs: would its result be too large?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

from .chat_budget import MAX_VALUE, TooMuchError, weight

MAX_BITS = 4096
_STAR_OR_WIDE = re.compile(r"%[^%a-zA-Z]*(\*|[0-9]{4,})")


def require_room_for_method(text: str, name: str, args: Sequence[object]) -> None:
    first, second = (*args, None, None)[:2]
    size = len(text)
    if name in ("center", "ljust", "rjust", "zfill") and isinstance(first, int):
        size = max(size, first)
    elif name == "replace" and isinstance(first, str) and isinstance(second, str):
        size += text.count(first) * len(second)
    elif name == "join" and isinstance(first, list | tuple | dict):
        size = len(cast("Sequence[object]", first)) * size + weight(cast(object, first))
    elif name in ("rfind", "rindex", "rsplit", "rpartition") and isinstance(first, str) and len(first) * size > 10**8:
        raise TooMuchError("a search from the right for a long text")
    if size > MAX_VALUE:
        raise TooMuchError(f"a text of {size} characters")


def require_room_for_operator(operator: str, left: object, right: object) -> None:
    size = 0
    if operator == "*":
        if isinstance(left, int) and isinstance(right, int):
            size = MAX_VALUE + 1 if left.bit_length() + right.bit_length() > MAX_BITS else 0
        else:
            for factor, value in ((left, right), (right, left)):
                if isinstance(factor, int) and isinstance(value, str | list | tuple):
                    size = max(factor, 0) * weight(cast(object, value))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        size = MAX_VALUE + 1 if left.bit_length() * max(right, 0) > MAX_BITS else 0
    elif operator == "+" and not isinstance(left, int | float):
        size = weight(left) + weight(right)
    elif operator == "%" and isinstance(left, str):
        if _STAR_OR_WIDE.search(re.sub(r"%\([^()]*\)", "%", left)):
            raise TooMuchError("a format width of four digits")
        require_room_for_fields(left, "%", right)
    if size > MAX_VALUE:
        raise TooMuchError(f"the result of `{operator}` would be too large")


def require_room_for_fields(text: str, mark: str, values: object) -> None:
    if len(text) + text.count(mark) * (1000 + 4 * weight(values)) > 16 * MAX_VALUE:
        raise TooMuchError("the result of formatting would be too large")
