"""Frozen data as JSON and back: dataclasses of known kinds, tuples, lists, sets, mappings, numbers, texts.

Nothing but the kinds that are named can come out of a text, whoever wrote it, and none of them runs anything. A tuple
is a JSON list; what JSON has no form for is an object whose key `""` says what it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from typing import cast

_KIND = ""


class _List(list[object]):
    """A list that was one when it was written: a JSON list is a tuple."""


def to_json(value: object, kinds: Mapping[str, type]) -> str:
    """The text of a value. Raises TypeError for what has no form, a dataclass of another kind among it."""
    return json.dumps(_encoded(value, kinds), separators=(",", ":"))


def from_json(text: str, kinds: Mapping[str, type]) -> object:
    """The value of a text. Raises ValueError, TypeError or KeyError for one that `to_json` did not make."""

    def decoded(pairs: dict[str, object]) -> object:
        for key, value in pairs.items():
            if type(value) is list:
                pairs[key] = _frozen(cast("list[object]", value))
        kind = pairs.pop(_KIND, None)
        return pairs if kind is None else _made(cast("str", kind), pairs, kinds)

    value = json.loads(text, object_hook=decoded)
    return _frozen(cast("list[object]", value)) if type(value) is list else value


def _encoded(value: object, kinds: Mapping[str, type]) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if is_dataclass(value) and kinds.get(type(value).__name__) is type(value):
        named = {field.name: _encoded(getattr(value, field.name), kinds) for field in fields(value) if field.init}
        return {_KIND: type(value).__name__, **named}
    if isinstance(value, tuple):
        return [_encoded(item, kinds) for item in cast("tuple[object, ...]", value)]
    if isinstance(value, Mapping):
        return _encoded_mapping(cast("Mapping[object, object]", value), kinds)
    for kind, found in (("list", list), ("set", Set)):
        if isinstance(value, found):
            return {_KIND: kind, "of": [_encoded(item, kinds) for item in cast("list[object]", value)]}
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _encoded_mapping(value: Mapping[object, object], kinds: Mapping[str, type]) -> object:
    encoded = [(_encoded(key, kinds), _encoded(item, kinds)) for key, item in value.items()]
    if all(isinstance(key, str) and key != _KIND for key in value):
        return {cast("str", key): item for key, item in encoded}
    return {_KIND: "dict", "of": encoded}


def _frozen(items: list[object]) -> tuple[object, ...]:
    return tuple([_frozen(cast("list[object]", item)) if type(item) is list else item for item in items])


def _made(kind: str, named: dict[str, object], kinds: Mapping[str, type]) -> object:
    if kind in ("list", "set", "dict"):
        items = cast("tuple[tuple[object, object], ...]", named["of"])
        return _List(items) if kind == "list" else set(items) if kind == "set" else dict(items)
    return kinds[kind](**named)
