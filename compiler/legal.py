"""Whether a value fits a JSON Schema: the quick answer for what is legal, before jsonschema is asked for the mistakes.

It knows the keywords that `schema.py` writes and says no where it is not certain, so that a no means: ask again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import cast

_SILENT = frozenset({"description", "title", "$defs", "$schema", "$id", "examples", "default"})
"""Keywords that forbid nothing."""


def fits(schema: object, value: object, root: object | None = None) -> bool:
    """Whether `value`, plain JSON, is certainly legal. root: the schema in which `$ref` points; None: `schema`."""
    if isinstance(schema, bool):
        return schema
    root = schema if root is None else root
    rules = cast("Mapping[str, object]", schema)
    for keyword, wanted in rules.items():
        if keyword in _SILENT:
            continue
        test = _TESTS.get(keyword)
        if test is None or not test(wanted, value, rules, root):
            return False
    return True


def _is_type(name: str, value: object) -> bool:
    match name:
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case _:
            return name == "null" and value is None


def _type(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    del rules, root
    names = cast("list[str]", wanted) if isinstance(wanted, list) else [cast("str", wanted)]
    return any(_is_type(name, value) for name in names)


def _same(first: object, second: object) -> bool:
    return type(first) is type(second) and first == second


def _const(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    del rules, root
    return _same(wanted, value)


def _enum(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    del rules, root
    return any(_same(choice, value) for choice in cast("Sequence[object]", wanted))


def _minimum(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    del rules, root
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return not is_number or cast("float", value) >= cast("float", wanted)


def _least(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    del rules, root
    return not isinstance(value, (list, dict)) or len(cast("Sequence[object]", value)) >= cast("int", wanted)


def _pattern(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    del rules, root
    return not isinstance(value, str) or _compiled(cast("str", wanted)).search(value) is not None


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _any_of(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    del rules
    return any(fits(schema, value, root) for schema in cast("Sequence[object]", wanted))


def _items(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    del rules
    return not isinstance(value, list) or all(fits(wanted, item, root) for item in cast("Sequence[object]", value))


def _required(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    del rules, root
    return not isinstance(value, dict) or all(key in value for key in cast("Sequence[str]", wanted))


def _properties(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    del rules
    if not isinstance(value, dict):
        return True
    held = cast("Mapping[str, object]", value)
    return all(
        fits(schema, held[key], root) for key, schema in cast("Mapping[str, object]", wanted).items() if key in held
    )


def _by_pattern(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    del rules
    if not isinstance(value, dict):
        return True
    held, schemas = cast("Mapping[str, object]", value), cast("Mapping[str, object]", wanted)
    return all(
        fits(schema, held[key], root)
        for pattern, schema in schemas.items()
        for key in held
        if _compiled(pattern).search(key)
    )


def _additional(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    if not isinstance(value, dict):
        return True
    held = cast("Mapping[str, object]", value)
    named = cast("Mapping[str, object]", rules.get("properties", {}))
    patterns = [_compiled(pattern) for pattern in cast("Mapping[str, object]", rules.get("patternProperties", {}))]
    rest = [key for key in held if key not in named and not any(pattern.search(key) for pattern in patterns)]
    return all(fits(wanted, held[key], root) for key in rest)


def _reference(wanted: object, value: object, rules: Mapping[str, object], root: object) -> bool:
    del rules
    found = root
    for part in cast("str", wanted).removeprefix("#").strip("/").split("/"):
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = cast("Mapping[str, object]", found)[part]
    return fits(found, value, root)


Test = Callable[[object, object, Mapping[str, object], object], bool]

_TESTS: Mapping[str, Test] = MappingProxyType(
    {
        "type": _type,
        "const": _const,
        "enum": _enum,
        "minimum": _minimum,
        "minItems": _least,
        "minProperties": _least,
        "pattern": _pattern,
        "anyOf": _any_of,
        "items": _items,
        "required": _required,
        "properties": _properties,
        "patternProperties": _by_pattern,
        "additionalProperties": _additional,
        "$ref": _reference,
    }
)
