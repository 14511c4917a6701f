"""Keys and values that one call keeps and others read: which state each input of the readers stands for."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from torch import fx

from ...kernels.states import STATES
from ..ir import Call
from ..lowered import Lowered, Module, site_of, type_of
from ..ops.declaration import StateSpec, TensorType

CACHED = "S"
"""The symbol of the cached tokens in the type of what is read from a cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the values by which a cache is handed on. `state` is the placeholder of its state in the call that keeps
    it."""

    state: str
    spec: StateSpec
    name: str


def part_rows(spec: StateSpec, name: str) -> TensorType | None:
    """The type of a call's own rows of a part; None for positions, and where no call adds any."""
    if name == "key_position" or STATES[spec.kind].axis == "once":
        return None
    return TensorType(shape=("B", "T", spec.sizes["heads"] * spec.sizes["key_dim" if name == "keys" else "value_dim"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Borrowed:
    """A cache that a definition reads of another call: the inputs by which it comes, by part."""

    spec: StateSpec
    ports: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Sharing:
    """All caches of a module that other calls read than the one that keeps them."""

    lent: dict[str, dict[str, Part]] = field(default_factory=dict[str, "dict[str, Part]"])
    """By definition and output."""
    borrowed: dict[str, tuple[Borrowed, ...]] = field(default_factory=dict[str, "tuple[Borrowed, ...]"])
    """By definition."""
    states: dict[int, tuple[str, ...]] = field(default_factory=dict[int, "tuple[str, ...]"])
    """By the number of a call, the paths of the states that it borrows, in that order."""
    last: dict[str, int] = field(default_factory=dict[str, int])
    """By path of a state, the number of the last call that reads it."""
    together: list[set[str]] = field(default_factory=list["set[str]"])
    """Definitions that run as machine code all of them, or none."""
    uneven: set[str] = field(default_factory=set[str])
    """Definitions whose calls borrow in different ways."""


def sharing(module: Module) -> Sharing:
    """Follow every cache from the call that keeps it to those that read it."""
    found = Sharing(lent={name: parts for name, lowered in module.definitions.items() if (parts := _lent(lowered))})
    produced: dict[str, tuple[Call, Part]] = {}
    for index, call in enumerate(module.calls):
        caches: dict[str, dict[str, str]] = {}
        specs: dict[str, StateSpec] = {}
        for port, value in call.inputs.items():
            if isinstance(value, str) and value in produced:
                owner, part = produced[value]
                path = owner.binding.own(module.definitions[owner.definition].states[part.state][0])
                caches.setdefault(path, {})[part.name] = port
                specs[path], found.last[path] = part.spec, index
                found.together.append({owner.definition, call.definition})
        if caches:
            found.states[index] = tuple(caches)
            borrowed = tuple(Borrowed(spec=specs[path], ports=ports) for path, ports in caches.items())
            if found.borrowed.setdefault(call.definition, borrowed) != borrowed:
                found.uneven.add(call.definition)
        for port, part in found.lent.get(call.definition, {}).items():
            produced[call.outputs[port]] = (call, part)
    return found


def _lent(lowered: Lowered) -> dict[str, Part]:
    """The outputs of a definition that are parts of a cache of its own."""
    found: dict[str, Part] = {}
    for port, node in zip(lowered.outputs, lowered.results, strict=False):
        source = node.args[0] if node.target is operator.getitem else None
        state = source.kwargs.get("state") if isinstance(source, fx.Node) else None
        if isinstance(source, fx.Node) and isinstance(state, fx.Node) and CACHED in type_of(node).shape:
            name, placeholder = list(site_of(source).types)[cast("int", node.args[1])], str(state.target)
            found[port] = Part(state=placeholder, spec=lowered.states[placeholder][1], name=name)
    return found


def buffer_count(spec: StateSpec) -> int:
    """Buffers that a state has."""
    return len(STATES[spec.kind].slots(spec.sizes, 1))
