"""The `config:` section of a spec: params from a Hugging Face config.json, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from ..specs.diagnostics import Diagnostic, LlmcError, did_you_mean
from ..specs.source import YamlEntry, YamlList, YamlMap, YamlNode, YamlScalar, plain
from .fields import evaluate_condition
from .ops.declaration import Value

Json = Mapping[str, object]

GENERIC_KEYS = frozenset(
    [
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "dtype",
        "eos_token_id",
        "finetuning_task",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "sep_token_id",
        "task_specific_params",
        "tie_encoder_decoder",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "transformers.js_config",
        "use_cache",
        "attn_implementation",
        "_attn_implementation",
    ]
)
"""Keys that every config may have and that do not change what a model computes, or that llmc reads elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMap:
    """One param and the config keys it is read from, the canonical one first."""

    param: str
    keys: tuple[str, ...]
    values: Mapping[str, Value]
    """Their spelling -> ours; empty: as it is."""
    is_count: bool = False
    """The param is the number of entries of their map (`id2label`)."""
    is_nullable: bool = False
    """Their null is a value; elsewhere it leaves the param's default."""
    when: YamlNode | None = None
    """Exported only where this expression is true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMap:
    """A spec's whole `config:` section."""

    model_type: str
    architectures: tuple[str, ...]
    """The names that config.json may give it, the canonical one first."""
    params: tuple[KeyMap, ...]
    fixed: Mapping[str, object]
    ignored: frozenset[str]


def config_map(section: YamlMap) -> ConfigMap:
    """Read the section as it is written; no expression is needed for it."""
    params = section.get("params")
    entries = dict(params.entries) if isinstance(params, YamlMap) else dict[str, YamlEntry]()
    fixed, ignored = section.get("fixed"), section.get("ignore")
    return ConfigMap(
        model_type=str(plain(section.entries["model_type"].value)),
        architectures=tuple(_strings(section.entries["architectures"].value)),
        params=tuple(_key_map(param, entry.value) for param, entry in entries.items()),
        fixed=cast("Json", plain(fixed)) if isinstance(fixed, YamlMap) else {},
        ignored=frozenset(_strings(ignored)),
    )


def _strings(node: YamlNode | None) -> Iterator[str]:
    if isinstance(node, YamlList):
        for item in node.items:
            yield str(plain(item))
    elif isinstance(node, YamlScalar):
        yield str(node.value)


def _key_map(param: str, node: YamlNode) -> KeyMap:
    if not isinstance(node, YamlMap):
        return KeyMap(param=param, keys=tuple(_strings(node)), values={})
    values, count, nullable = (node.get(key) for key in ("values", "count", "nullable"))
    return KeyMap(
        param=param,
        keys=tuple(_strings(node.get("key"))),
        values=cast("Mapping[str, Value]", plain(values)) if isinstance(values, YamlMap) else {},
        is_count=count is not None and plain(count) is True,
        is_nullable=nullable is not None and plain(nullable) is True,
        when=node.get("when"),
    )


def params_from_config(mapping: ConfigMap, config: Json, file: str) -> dict[str, Value]:
    """The params that a config.json sets.

    Raises LlmcError with every key that is not understood (E0710), whose value has no spelling here (E0711), or that
    this architecture supports at another value only (E0712).
    """
    used: set[str] = set()
    params: dict[str, Value] = {}
    problems: list[Diagnostic] = []
    for entry in mapping.params:
        for key in entry.keys:
            found, value = _look_up(config, key)
            used.add(key)
            if not found or entry.param in params or (value is None and not entry.is_nullable):
                continue
            if entry.is_count:
                params[entry.param] = len(cast("Json", value)) if isinstance(value, dict) else cast("Value", value)
                used |= {f"{key}.{inner}" for inner in cast("Json", value)} if isinstance(value, dict) else set()
            elif entry.values:
                spelled = _spelling(value)
                if spelled not in entry.values:
                    problems.append(_unsupported_value(file, key, value, entry.values))
                    continue
                params[entry.param] = entry.values[spelled]
            else:
                params[entry.param] = _untagged(cast("Value", value))
    for key, value in mapping.fixed.items():
        used.add(key)
        found, given = _look_up(config, key)
        if found and given is not None and given != value:
            problems.append(
                Diagnostic(
                    code="E0712",
                    message=f"{file}: {key} is {given!r}, but this architecture is only supported at {value!r}",
                    help="write a spec that extends it, with the op that differs",
                )
            )
    problems += [
        Diagnostic(
            code="E0710",
            message=f"{file}: the key {key!r} is not understood",
            help=did_you_mean(key, used) or "if it does not change the computation, list it under config: ignore:",
        )
        for key in _leaves(config)
        if key not in used and not _is_ignored(key, mapping)
    ]
    if problems:
        raise LlmcError(problems)
    return params


def not_understood(mapping: ConfigMap, config: Json) -> tuple[list[str], int]:
    """The keys of a config.json that a spec does not know, and how many it has in all that say what is computed."""
    known = {key for entry in mapping.params for key in entry.keys} | mapping.fixed.keys()
    telling = [key for key in _leaves(config) if not GENERIC_KEYS & {*key.split(".")}]
    return [key for key in telling if key not in known and not _is_ignored(key, mapping)], len(telling)


_FLOAT = "__float__"
_TAGGED_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf}
"""How a config.json spells what JSON has no number for: `{"__float__": "Infinity"}`."""


def _untagged(value: Value) -> Value:
    """The value with tagged floats, alone or in a list, as floats."""
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if isinstance(value, dict) and value.keys() == {_FLOAT}:
        return _TAGGED_FLOATS.get(str(value[_FLOAT]), value)
    return value


def _tagged(value: object) -> object:
    """The inverse of `_untagged`."""
    if isinstance(value, list):
        return [_tagged(item) for item in cast("list[object]", value)]
    if isinstance(value, float) and math.isinf(value):
        return {_FLOAT: "Infinity" if value > 0 else "-Infinity"}
    return value


def _spelling(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _unsupported_value(file: str, key: str, value: object, values: Mapping[str, Value]) -> Diagnostic:
    return Diagnostic(
        code="E0711",
        message=f"{file}: {key} is {value!r}, which this architecture does not support",
        help="supported: " + ", ".join(values),
    )


def _is_ignored(key: str, mapping: ConfigMap) -> bool:
    parts = key.split(".")
    above = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    return bool(above & mapping.ignored or GENERIC_KEYS & {*parts})


def _leaves(config: Json) -> Iterator[str]:
    """Keys, dotted where the value is a map, whose values are not null."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from (f"{key}.{inner}" for inner in _leaves(cast("Json", value)))
        elif value is not None:
            yield key


def _look_up(config: Json, key: str) -> tuple[bool, object]:
    found: object = config
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return False, None
        found = found[part]  # pyright: ignore[reportUnknownVariableType]
    return True, cast("object", found)


def config_from_params(mapping: ConfigMap, params: Mapping[str, Value], extra: Json) -> dict[str, object]:
    """A config.json: canonical keys, fixed values, `extra` (special token ids and the like). The inverse of
    `params_from_config`."""
    config: dict[str, object] = {"architectures": [mapping.architectures[0]], "model_type": mapping.model_type}
    for entry in mapping.params:
        value: object = params[entry.param]
        if entry.when is not None and not evaluate_condition(entry.when, params):
            continue
        if entry.is_count:
            value = {str(i): f"LABEL_{i}" for i in range(cast("int", value))}
            config["label2id"] = {label: int(i) for i, label in value.items()}
        elif entry.values:
            value = next((theirs for theirs, ours in entry.values.items() if ours == value), None)
            value = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
        if value is not None or entry.is_nullable:
            _put(config, entry.keys[0].split("."), _tagged(value))
    for key, value in mapping.fixed.items():
        if value is not None:
            _put(config, key.split("."), value)
    return {**config, **extra}


def _put(config: dict[str, object], path: Sequence[str], value: object) -> None:
    for part in path[:-1]:
        config = cast("dict[str, object]", config.setdefault(part, {}))
    config[path[-1]] = value
