"""JSON from strangers: strict UTF-8, no duplicate key, no NaN, no lone surrogate, bounded in depth and number."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TypeAlias, TypeGuard, cast

from ..specs.diagnostics import LlmcError, fail

JsonObject: TypeAlias = dict[str, object]

MAX_DEPTH = 64
MAX_VALUES = 8_000_000
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def json_text(values: Mapping[str, object]) -> str:
    """JSON as llmc writes it: sorted, indented, with a final newline, so that equal values give equal bytes."""
    return json.dumps(values, indent=1, sort_keys=True) + "\n"


def shown(text: str) -> str:
    """Text from a stranger as one quoted, escaped, shortened word, safe to print on a terminal."""
    short = text if len(text) <= 120 else text[:117] + "..."
    return ascii(short)


def is_object(value: object) -> TypeGuard[JsonObject]:
    """True for a JSON object (its keys are always strings)."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def is_int(value: object) -> TypeGuard[int]:
    """True for an integer that is not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def parse_json(data: bytes, what: str) -> object:
    """The value in `data`; `what` names its file in the diagnostic. Raises E0752."""
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise _malformed(what, f"it holds more than {MAX_VALUES} values")
    try:
        value = cast(
            object,
            json.loads(
                data.decode("utf-8"),
                object_pairs_hook=_unique,
                parse_constant=_no_constant,
                parse_float=_finite,
            ),
        )
    except UnicodeDecodeError as error:
        raise _malformed(what, f"it is not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _malformed(what, f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _malformed(what, f"it is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise _malformed(what, str(error)) from None
    if _SURROGATE_ESCAPE.search(data):
        _require_encodable(value, what)
    _require_shallow(value, what)
    return value


def _malformed(what: str, reason: str) -> LlmcError:
    return fail("E0752", f"{what} is not valid JSON: {reason}")


def _unique(pairs: list[tuple[str, object]]) -> JsonObject:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {shown(key)} is written twice")
            seen.add(key)
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {shown(text)} is too large")
    return value


def _require_encodable(value: object, what: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (UnicodeEncodeError, RecursionError):
        raise _malformed(what, "it holds half of a surrogate pair") from None


def _require_shallow(value: object, what: str) -> None:
    """Walk level by level, so that depth costs no recursion."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for container in level:
            items = container.values() if is_object(container) else container if is_list(container) else ()
            below.extend(item for item in items if is_object(item) or is_list(item))
        if not below:
            return
        level = below
    raise _malformed(what, f"it is nested deeper than {MAX_DEPTH}")
