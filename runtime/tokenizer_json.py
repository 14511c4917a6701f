"""What a tokenizer.json may hold, checked before the `tokenizers` library builds anything from it.

The library trusts its file: ids of four billion size a table, a replacement of a megabyte multiplies a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from ..specs.diagnostics import LlmcError, fail
from .strict_json import JsonObject, is_int, is_list, is_object, shown

MAX_TOKEN_LENGTH = 8192
MAX_PATTERN_LENGTH = 16_384
MAX_AMPLIFICATION = 4096
SPARE_IDS = 100_000
"""How far beyond twice the number of tokens an id may lie: reserved ranges are real, a table of 2^31 rows is not."""


def check_tokenizer_json(path: Path, value: JsonObject) -> int:
    """One more than the largest id. Raises E0850 naming what is wrong."""
    model = value.get("model")
    if not is_object(model):
        raise _wrong(path, "it has no `model` object")
    ids = dict(_model_ids(path, model))
    added = list(_added_ids(path, value.get("added_tokens", [])))
    largest = max([*ids.values(), *(id for _, id in added)], default=-1)
    limit = 2 * (len(ids) + len(added)) + SPARE_IDS
    if largest >= limit:
        raise _wrong(path, f"the id {largest} is out of range: {len(ids) + len(added)} tokens, ids below {limit}")
    if len(set(ids.values())) != len(ids):
        raise _wrong(path, "two tokens of the vocabulary have the same id")
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        _check_component(path, part, value.get(part))
    _check_template_ids(path, value.get("post_processor"), largest)
    return largest + 1


def _wrong(path: Path, reason: str) -> LlmcError:
    return fail("E0850", f"{path} is not a tokenizer that can be used: {reason}")


def _model_ids(path: Path, model: JsonObject) -> Iterator[tuple[str, int]]:
    vocab = model.get("vocab")
    if is_object(vocab):
        for token, id in vocab.items():
            yield _token(path, token, id)
    elif is_list(vocab):
        for index, pair in enumerate(vocab):
            if not is_list(pair) or len(pair) != 2:
                raise _wrong(path, f"vocabulary entry {index} is not a token and its score")
            yield _token(path, pair[0], index)
    else:
        raise _wrong(path, "its model has no vocabulary")


def _added_ids(path: Path, added: object) -> Iterator[tuple[str, int]]:
    if not is_list(added):
        raise _wrong(path, "added_tokens is not a list")
    for token in added:
        if not is_object(token):
            raise _wrong(path, "an added token is not an object")
        yield _token(path, token.get("content"), token.get("id"))


def _token(path: Path, token: object, id: object) -> tuple[str, int]:
    if not isinstance(token, str) or len(token) > MAX_TOKEN_LENGTH:
        raise _wrong(path, f"a token is not a text of at most {MAX_TOKEN_LENGTH} characters")
    if not is_int(id) or not 0 <= id < 2**31:
        raise _wrong(path, f"the id of token {shown(token)} is not an integer from 0 to 2^31 - 1")
    return token, id


def _check_component(path: Path, part: str, value: object) -> None:
    """Texts are short, and replacements together cannot multiply a prompt beyond a bound."""
    factors: list[int] = []
    stack = [value]
    while stack:
        item = stack.pop()
        if is_list(item):
            stack.extend(item)
        elif is_object(item):
            for key, text in item.items():
                if not isinstance(text, str):
                    stack.append(text)
                elif key != "precompiled_charsmap" and len(text) > MAX_PATTERN_LENGTH:
                    raise _wrong(path, f"{part}: the text of `{shown(key)}` has {len(text)} characters")
                elif key in ("content", "prepend", "replacement"):
                    factors.append(max(1, len(text)))
    if math.prod(factors) > MAX_AMPLIFICATION:
        raise _wrong(path, f"{part}: its replacements make a text up to {math.prod(factors)} times as long")


def _check_template_ids(path: Path, value: object, largest: int) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if is_list(item):
            stack.extend(item)
        elif is_object(item):
            stack.extend(item.values())
            ids = item.get("ids")
            for id in ids if is_list(ids) else []:
                if not is_int(id) or not 0 <= id <= largest:
                    raise _wrong(path, f"post_processor: the id {shown(str(id))} is not in the vocabulary")
