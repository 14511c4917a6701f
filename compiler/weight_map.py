"""The `weights:` section of a spec, evaluated: ties, ignored names, the optional prefix, rules that make tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from ..specs.diagnostics import did_you_mean, fail
from ..specs.source import Span, YamlList, YamlMap, YamlNode, YamlScalar
from .fields import evaluate_condition, evaluate_node
from .ir import Model
from .ops.declaration import ParameterSpec, Value
from .plan import parameters
from .spec import Spec

MAX_STARS = 2
_HOLE = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRule:
    """How one tensor of the model is made of the checkpoint's. `path` and `sources` share their holes."""

    path: str
    sources: tuple[str, ...]
    how: str
    span: Span
    axis: int = 0
    part: int | None = None
    sizes: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    value: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightMap:
    """How parameters and checkpoint tensors correspond."""

    parameters: Mapping[str, ParameterSpec]
    ties: Mapping[str, str]
    """Parameter path -> the path that owns its tensor."""
    rules: tuple[WeightRule, ...] = ()
    prefix: str = ""
    ignored: tuple[str, ...] = ()

    def is_ignored(self, name: str) -> bool:
        """Whether a checkpoint tensor is declared to be no parameter."""
        return any(match(pattern, name) is not None for pattern in self.ignored)

    def rule_for(self, path: str) -> tuple[WeightRule, dict[str, str]] | None:
        """The first rule for a parameter, with what its holes stand for."""
        for rule in self.rules:
            holes = match(rule.path, path)
            if holes is not None:
                return rule, holes
        return None


def match(pattern: str, name: str) -> dict[str, str] | None:
    """What the holes stand for where `name` fits the pattern, else None.

    `{layer}`, `{expert}` … are whole numbers, `*` is any text; the n-th `*` is the hole `*n`.
    """
    return _match(_compiled(pattern), name)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    holes: list[str] = []
    regex = ""
    for part in re.split(r"(\{[a-z_]+\}|\*)", pattern):
        if part == "*":
            holes.append(f"*{sum(hole.startswith('*') for hole in holes)}")
            regex += "(.*?)"
        elif _HOLE.fullmatch(part):
            holes.append(part[1:-1])
            regex += "([0-9]+)"
        else:
            regex += re.escape(part)
    return re.compile(regex), tuple(holes)


def _match(compiled: tuple[re.Pattern[str], tuple[str, ...]], name: str) -> dict[str, str] | None:
    found = compiled[0].fullmatch(name)
    return None if found is None else dict(zip(compiled[1], found.groups(), strict=True))


def fill(pattern: str, holes: Mapping[str, str]) -> str:
    """The pattern with every known hole replaced; the n-th `*` by what the n-th `*` stood for."""
    filled = _HOLE.sub(lambda hole: holes.get(hole[1], hole[0]), pattern)
    for index in range(filled.count("*")):
        filled = filled.replace("*", holes.get(f"*{index}", "*"), 1)
    return filled


def weight_map(spec: Spec, model: Model) -> WeightMap:
    """Evaluate the section against the spec's params. Raises LlmcError E0701 where a path of it names no parameter."""
    known = parameters(model)
    section = spec.weights
    if section is None:
        return WeightMap(parameters=known, ties={})
    environment = spec.environment
    prefix = section.get("prefix")
    return WeightMap(
        parameters=known,
        ties=_ties(section.get("tie"), environment, known),
        rules=tuple(_rules(section.get("rules"), environment, known)),
        prefix=str(prefix.value) if isinstance(prefix, YamlScalar) else "",
        ignored=tuple(_pattern(item, environment) for item in _items(section.get("ignore"))),
    )


def _pattern(node: YamlNode, environment: Mapping[str, Value]) -> str:
    """A name with holes. At most two `*`: matching more could take time without bound."""
    text = str(evaluate_node(node, environment, is_text=True))
    if text.count("*") > MAX_STARS:
        raise fail(
            "E0205",
            f"a pattern has at most {MAX_STARS} *, not {text.count('*')}",
            node.span,
            help="use {layer} for numbers",
        )
    return text


def _items(node: YamlNode | None) -> Sequence[YamlNode]:
    return node.items if isinstance(node, YamlList) else ()


def _applies(rule: YamlMap, environment: Mapping[str, Value]) -> bool:
    when = rule.get("when")
    return when is None or evaluate_condition(when, environment)


def _ties(
    node: YamlNode | None, environment: Mapping[str, Value], known: Mapping[str, ParameterSpec]
) -> dict[str, str]:
    ties: dict[str, str] = {}
    for item in _items(node):
        assert isinstance(item, YamlMap)
        if not _applies(item, environment):
            continue
        ends: list[str] = []
        for key in ("path", "to"):
            entry = item.entries[key]
            name = str(evaluate_node(entry.value, environment, is_text=True))
            if name not in known:
                raise fail(
                    "E0701", f"there is no parameter {name!r} to tie", entry.value.span, help=did_you_mean(name, known)
                )
            ends.append(name)
        path, owner = ends
        if known[path].shape != known[owner].shape:
            raise fail(
                "E0702",
                f"{path} is {list(known[path].shape)} but {owner} is {list(known[owner].shape)}: they cannot be tied",
                item.span,
                help="tie tensors of one shape",
            )
        ties[path] = owner
    return ties


def _rules(
    node: YamlNode | None, environment: Mapping[str, Value], known: Mapping[str, ParameterSpec]
) -> Iterator[WeightRule]:
    for item in _items(node):
        assert isinstance(item, YamlMap)
        if not _applies(item, environment):
            continue
        path = _pattern(item.entries["path"].value, environment)
        if not any(match(path, name) is not None for name in known):
            raise fail(
                "E0701",
                f"no parameter is named {path!r}",
                item.entries["path"].value.span,
                help=did_you_mean(path, known),
            )
        written = item.entries["from"].value
        sources = written.items if isinstance(written, YamlList) else (written,)
        how, axis, part, value = (item.get(key) for key in ("how", "axis", "part", "value"))
        yield WeightRule(
            path=path,
            sources=tuple(str(evaluate_node(s, environment, is_text=True)) for s in sources),
            how=str(how.value) if isinstance(how, YamlScalar) else "rename",
            span=item.span,
            axis=int(str(axis.value)) if isinstance(axis, YamlScalar) else 0,
            part=cast("int", evaluate_node(part, environment, is_text=False)) if part is not None else None,
            sizes=tuple(cast("int", evaluate_node(s, environment, is_text=False)) for s in _items(item.get("sizes"))),
            order=tuple(cast("int", evaluate_node(o, environment, is_text=False)) for o in _items(item.get("order"))),
            value=cast("float", evaluate_node(value, environment, is_text=False)) if value is not None else 0.0,
        )
