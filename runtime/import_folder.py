"""Recognises a Hugging Face folder by its config.json: which packaged spec it is, and with which params."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

from ..compiler.config_map import ConfigMap, config_map, not_understood, params_from_config
from ..compiler.ops.declaration import Value
from ..specs.diagnostics import Note, did_you_mean, fail, quoted
from ..specs.document import load_document
from ..specs.packaged import packaged_names, packaged_path
from ..specs.source import YamlMap
from .containment import find_inside, read_json_object, require_folder

MAX_CONFIG_BYTES = 4 * 1024 * 1024
MOST_SHOWN = 8
"""Keys that a message lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A spec by name, and the params that make it this model."""

    spec: str
    params: Mapping[str, Value]
    config: Mapping[str, object]


def import_folder(folder: str | Path) -> Imported:
    """Read config.json of a folder.

    Raises LlmcError E0713 for an architecture that no spec describes, with the nearest that one does, and what
    `params_from_config` finds.
    """
    root = require_folder(Path(folder))
    path = find_inside(root, "config.json")
    if path is None:
        raise fail("E0751", f"{root} has no file config.json, which says the architecture", help=_name_a_spec(root))
    config = read_json_object(path, MAX_CONFIG_BYTES)
    name, mapping = _find_spec(config, str(path))
    return Imported(spec=name, params=params_from_config(mapping, config, str(path)), config=config)


def _find_spec(config: Mapping[str, object], file: str) -> tuple[str, ConfigMap]:
    """The spec whose model_type and first architecture match; the head is the architecture's."""
    model_type = config.get("model_type")
    listed = config.get("architectures")
    architectures = [a for a in cast("list[object]", listed) if isinstance(a, str)] if isinstance(listed, list) else []
    candidates = [(name, mapping) for name, mapping in families(model_type) if mapping.model_type == model_type]
    if not candidates:
        known = {mapping.model_type for _, mapping in families()}
        raise fail(
            "E0713",
            f"{file}: no spec describes model_type {str(model_type)[:64]!r}",
            help=did_you_mean(str(model_type)[:64], known) or _name_a_spec(Path(file).parent),
            notes=(Note(text=_nearest(config)),),
        )
    for architecture in architectures:
        for name, mapping in candidates:
            if architecture in mapping.architectures:
                return name, mapping
    if not architectures:
        return candidates[0]
    supported = {a for _, mapping in candidates for a in mapping.architectures}
    raise fail(
        "E0713",
        f"{file}: no spec describes {architectures[0][:64]!r}",
        help=did_you_mean(architectures[0][:64], supported) or "supported: " + ", ".join(sorted(supported)),
    )


def _name_a_spec(folder: Path) -> str:
    return f"where the architecture is a YAML file of yours, name both: SPEC.yaml and --weights {folder}"


def _nearest(config: Mapping[str, object]) -> str:
    """The spec that knows most of a config's keys, and the keys that it does not know."""
    judged = [(not_understood(mapping, config), name) for name, mapping in families()]
    (missing, total), name = min(judged, key=lambda one: (len(one[0][0]), one[1]))
    if len(missing) == total:
        return "no spec knows any of its keys"
    shown = ", ".join(quoted(key, 64) for key in sorted(missing)[:MOST_SHOWN])
    shown += ", …" if len(missing) > MOST_SHOWN else ""
    lacking = f"; it does not know {shown}" if missing else ""
    return f"the nearest is {name}, which knows {total - len(missing)} of the {total} keys{lacking}"


def families(model_type: object = None) -> Iterator[tuple[str, ConfigMap]]:
    """Packaged specs that are whole architectures: those with a config section of their own; given a model_type,
    without most of those that have another."""
    for name in packaged_names():
        if isinstance(model_type, str) and not _may_be_of(name, model_type):
            continue
        mapping = _own_config(name)
        if mapping is not None:
            yield name, mapping


def _may_be_of(name: str, model_type: str) -> bool:
    """False where the text of the spec alone says that its model_type is another one."""
    text = _text(name)
    said = re.search(r"^\s+model_type:\s*[\"']?([\w.-]+)[\"']?\s*$", text, re.MULTILINE)
    if said is not None:
        return model_type == said.group(1)
    parent = re.search(r"^extends:\s*(\w+)\s*$", text, re.MULTILINE)
    has_config = "\nconfig:" in text
    return has_config and (parent is None or _may_be_of(parent.group(1), model_type))


@lru_cache(maxsize=256)
def _text(name: str) -> str:
    return packaged_path(name).read_text(encoding="utf-8")


@lru_cache(maxsize=256)
def _own_config(name: str) -> ConfigMap | None:
    if "\nconfig:" not in _text(name):
        return None
    section = load_document(name).root.get("config")
    return config_map(section) if isinstance(section, YamlMap) else None
