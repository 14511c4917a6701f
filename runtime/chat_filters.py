"""The filters that chat templates may use: an allow-list of jinja2's, with those that can blow up written again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import cast

from jinja2.environment import Environment
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.utils import pass_environment
from markupsafe import escape

from .chat_budget import MAX_VALUE, TooMuchError, listed, weight
from .chat_sandbox import BoundedEnvironment

Filter = Callable[..., object]

SAFE = (
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "float",
    "int",
    "items",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "reverse",
    "select",
    "selectattr",
    "sort",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "wordcount",
)
MAX_WIDTH = 4096


def tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers does: no HTML escapes."""
    if isinstance(indent, str) or (indent or 0) > 32 or any(len(text) > 16 for text in separators or ()):
        raise TooMuchError("an indent or separator of tojson")
    weight(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_environment
def join(environment: Environment, value: Iterable[object], d: str = "", attribute: str | int | None = None) -> str:
    items = list(value)
    if attribute is not None:
        items = [make_attrgetter(environment, attribute)(item) for item in items]
    texts = [str(item) for item in items]
    if sum(map(len, texts)) + len(texts) * len(str(d)) > MAX_VALUE:
        raise TooMuchError("the result of join")
    return str(d).join(texts)


def replace(s: object, old: str, new: str, count: int | None = None) -> str:
    text, old, new = str(s), str(old), str(new)
    if len(text) + text.count(old) * len(new) > MAX_VALUE:
        raise TooMuchError("the result of replace")
    return text.replace(old, new, -1 if count is None else count)


def indent(s: object, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = str(s)
    margin = " " * _width(width) if isinstance(width, int) else width
    lines = text.splitlines() or [""]
    if len(text) + len(lines) * len(margin) > MAX_VALUE:
        raise TooMuchError("the result of indent")
    rest = [margin + line if line or blank else line for line in lines[1:]]
    ending = "\n" if text.endswith("\n") else ""
    return "\n".join([(margin if first else "") + lines[0], *rest]) + ending


def center(value: object, width: int = 80) -> str:
    return str(value).center(_width(width))


def round_number(value: float, precision: int = 0, method: str = "common") -> float:
    if not 0 <= precision <= 32 or method not in ("common", "ceil", "floor"):
        raise TooMuchError("a precision of round")
    if method == "common":
        return float(round(value, precision))
    scale = 10**precision
    return (math.ceil if method == "ceil" else math.floor)(value * scale) / scale


@pass_environment
def sum_numbers(
    environment: Environment, iterable: Iterable[object], attribute: str | int | None = None, start: float = 0
) -> float:
    total = start
    for item in iterable:
        number = item if attribute is None else make_attrgetter(environment, attribute)(item)
        if not isinstance(number, int | float):
            raise TypeError("sum takes numbers")
        total += number
    return total


def string(value: object) -> str:
    weight(value)
    return str(value)


def escape_html(value: object) -> str:
    return str(escape(string(value)))


OWN: Mapping[str, Filter] = {
    "tojson": tojson,
    "join": join,
    "replace": replace,
    "indent": indent,
    "center": center,
    "round": round_number,
    "sum": sum_numbers,
    "string": string,
    "safe": string,
    "escape": escape_html,
    "e": escape_html,
}


def install(environment: BoundedEnvironment) -> None:
    """Replace the environment's filters by the allowed ones, each with its result weighed."""
    allowed: dict[str, Filter] = {name: cast(Filter, FILTERS[name]) for name in SAFE}
    allowed.update(OWN)
    environment.filters.clear()
    environment.filters.update({name: _bounded(environment, filter) for name, filter in allowed.items()})


def _bounded(environment: BoundedEnvironment, filter: Filter) -> Filter:
    @wraps(filter)
    def run(*args: object, **kwargs: object) -> object:
        result = filter(*(listed(arg) for arg in args), **kwargs)
        return environment.work.add(listed(result))

    return run


def _width(width: int) -> int:
    if width > MAX_WIDTH:
        raise TooMuchError(f"a width of {width}")
    return width
