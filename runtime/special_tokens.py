"""Which tokens begin, end and pad a text, gathered from the files that a checkpoint folder spreads them over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..specs.diagnostics import fail
from .containment import find_inside, read_json_object, read_text
from .strict_json import JsonObject, is_int, is_list, is_object, shown

MAX_CONFIG_BYTES = 16 * 1024 * 1024
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """`texts` by role (`bos_token`), as chat templates see them; ids only where a config gives them as numbers."""

    texts: Mapping[str, str]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int | None
    decoder_start_id: int | None
    """What the decoder of an encoder-decoder model begins with."""
    add_bos: bool | None
    chat_template: str | None


def read_special_tokens(folder: Path) -> SpecialTokens:
    """tokenizer_config.json over special_tokens_map.json; generation_config.json (else config.json) for ids.

    Every file may be missing. Raises E0752 for JSON and E0850 for fields of another type.
    """
    tokenizer = _optional(folder, "tokenizer_config.json")
    texts = _texts(_optional(folder, "special_tokens_map.json")) | _texts(tokenizer)
    generation = _optional(folder, "generation_config.json") or _optional(folder, "config.json")
    decoder_start = _ids(generation, "decoder_start_token_id") or _ids(
        _optional(folder, "config.json"), "decoder_start_token_id"
    )
    return SpecialTokens(
        texts=texts,
        bos_id=next(iter(_ids(generation, "bos_token_id")), None),
        eos_ids=_ids(generation, "eos_token_id"),
        pad_id=next(iter(_ids(generation, "pad_token_id")), None),
        decoder_start_id=next(iter(decoder_start), None),
        add_bos=_flag(tokenizer, "add_bos_token"),
        chat_template=_chat_template(folder, tokenizer),
    )


def _optional(folder: Path, name: str) -> JsonObject:
    path = find_inside(folder, name)
    return {} if path is None else read_json_object(path, MAX_CONFIG_BYTES)


def _texts(config: JsonObject) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name in NAMES:
        value = config.get(name)
        content = value.get("content") if is_object(value) else value
        if content is None:
            continue
        if not isinstance(content, str) or not 0 < len(content) <= 1024:
            raise fail("E0850", f"{name} of the tokenizer is not a text of 1 to 1024 characters")
        texts[name] = content
    return texts


def _ids(config: JsonObject, key: str) -> tuple[int, ...]:
    value = config.get(key)
    values = value if is_list(value) else [] if value is None else [value]
    ids: list[int] = []
    for id in values:
        if not is_int(id) or id >= 2**31:
            raise fail("E0850", f"{key} holds {shown(str(id)[:50])}, not a token id")
        if id >= 0 and id not in ids:
            ids.append(id)
    return tuple(ids)


def _flag(config: JsonObject, key: str) -> bool | None:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise fail("E0850", f"{key} of tokenizer_config.json is neither true nor false")
    return value


def _chat_template(folder: Path, config: JsonObject) -> str | None:
    """chat_template.jinja wins, as in transformers; of several named templates, the one named `default`."""
    path = find_inside(folder, "chat_template.jinja")
    if path is not None:
        return read_text(path, MAX_CONFIG_BYTES)
    value = config.get("chat_template")
    if is_list(value):
        named = {
            item.get("name"): item.get("template")
            for item in value
            if is_object(item) and isinstance(item.get("name"), str)
        }
        value = named.get("default")
    if value is not None and not isinstance(value, str):
        raise fail("E0850", "chat_template of tokenizer_config.json is neither a text nor a list of named texts")
    return value
