"""Finds once a call which keys the queries of a block see, for all layers of one mask: for GPUs, whose kernels of many
queries visit keys by blocks and would each find that out by launches of their own.

rewrite: y = append_attend(s0, q, k, v, position)
  ->  y = append_attend(s0, q, k, v, position, plan), with plan = mask_plan(position) in the first definition
      of the calls that run as often
rewrite: y = attention(q, k, v, position)  ->  in training also key_plan = mask_plan(position, by_keys), for gradients
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

from torch import fx

from ..axes import ambient_name, ambient_parts, ambient_type, is_of_stream
from ..lowered import Lowered, Module, site_of, type_of
from ..ops.declaration import Value
from ..ops.mask_plan import MASK_PLAN
from ..rewrite import add_ambient, add_input, add_output, first_op, insert_before, operand

CACHES = {
    "kv_full_append": "cache", "rope_kv_full_append": "cache", "kv_latent_append": "cache",
    "kv_window_append": "ring", "rope_kv_window_append": "ring",
}  # fmt: skip
"""What the keys are that an append gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """All that a plan depends on: readers of equal ones share it."""

    fields: tuple[tuple[str, Value], ...]
    position: str
    key_position: str | None
    """Ambient tensors; the second where keys lie on another axis."""


def share_mask_plans(module: Module) -> int:
    """Returns the number of attention nodes that now read plans."""
    plans = _Plans(module)
    count = 0
    for lowered in list(module.definitions.values()):
        for node in [node for node in lowered.graph.nodes if _wants_plan(node)]:
            wanted = _wanted(module, lowered, node)
            found = {hint: plans.value(lowered, node, hint, plan) for hint, plan in wanted.items()}
            node.kwargs = {**node.kwargs, **found}
            count += bool(wanted)
    return count


def _wants_plan(node: fx.Node) -> bool:
    return "site" in node.meta and "plan" in site_of(node).op.hints and "plan" not in node.kwargs


def _wanted(module: Module, lowered: Lowered, node: fx.Node) -> dict[str, _Plan]:
    """By hint, the plan that a node of attention wants; none where its keys come from places of several kinds."""
    site = site_of(node)
    found = _keys_of(module, lowered, node)
    if found is None:
        return {}
    keys, key_position = found
    values = site.fields.values
    mask = {"mask": values.get("mask", "causal"), "window": values.get("window"), "chunk": values.get("chunk")}
    position = str(operand(node, "position").target)
    plan = _Plan(fields=(("keys", keys), *mask.items()), position=position, key_position=key_position)
    if node.op != "call_module" and site.op.name != "latent_attention":
        return {"plan": plan}
    return {"plan": plan, "key_plan": replace(plan, fields=(*plan.fields, ("by_keys", True)))}


def _keys_of(module: Module, lowered: Lowered, node: fx.Node) -> tuple[str, str | None] | None:
    """What the keys are, and where they are tokens of another axis the ambient tensor of their positions."""
    if site_of(node).op.name == "append_attend":
        return "cache" if site_of(node).fields.values["ring"] is None else "ring", None
    at = node.kwargs.get("key_position")
    if at is None:
        return "tokens", None
    origins = set(_origins(module, lowered, cast("fx.Node", at)))
    return origins.pop() if len(origins) == 1 else None


def _origins(module: Module, lowered: Lowered, at: fx.Node) -> Iterator[tuple[str, str | None] | None]:
    """Where positions of keys come from, through all calls that bind them."""
    if at.op == "placeholder" and at.target in lowered.ambient:
        yield "tokens", None if is_of_stream(str(at.target)) else str(at.target)
    elif at.op == "placeholder":
        for call in module.calls_of(lowered.name):
            value = call.inputs[str(at.target)]
            made = [(one, port) for one in module.calls for port, name in one.outputs.items() if name == value]
            if not made:
                yield None
            for one, port in made:
                definition = module.definitions[one.definition]
                yield from _origins(module, definition, definition.results[definition.outputs.index(port)])
    elif at.target is operator.getitem:
        yield _origin(module, cast("fx.Node", at.args[0]))
    else:
        yield None


def _origin(module: Module, source: fx.Node) -> tuple[str, str | None] | None:
    """Of the keys that an op gives."""
    name = site_of(source).op.name
    if name == "cross_kv_read":
        ambient = {one for lowered in module.definitions.values() for one in lowered.ambient if not is_of_stream(one)}
        axes = {ambient_parts(one)[1] for one in ambient}
        return ("tokens", ambient_name("position", axes.pop())) if len(axes) == 1 else None
    if name == "shared_keys":
        return "tokens", None
    return (CACHES[name], None) if name in CACHES else None


class _Plans:
    """The plans that have been made, and where they can be read."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.made: dict[tuple[str, _Plan], fx.Node] = {}
        """By definition, the value there: a node, or an input."""
        self.ports: dict[tuple[str, _Plan], tuple[str, fx.Node]] = {}
        """By definition that gives one, its port and its node."""

    def value(self, lowered: Lowered, node: fx.Node, hint: str, plan: _Plan) -> fx.Node:
        """The plan as a value of the definition of a node that reads it as this hint."""
        key = lowered.name, plan
        if key not in self.made:
            index = self._first_call(lowered)
            host = self.module.definitions[self.module.calls[index].definition]
            if key in self.ports:
                self.made[key] = self.ports[key][1]
            elif host is lowered or host.is_repeated or len(self.module.calls_of(host.name)) > 1:
                self.made[key] = _inserted(lowered, node, hint, plan)
            else:
                self.made[key] = self._read_shared(index, host, lowered, node, hint, plan)
        return self.made[key]

    def _first_call(self, lowered: Lowered) -> int:
        """Of those that run as often as this definition."""
        rate = self.module.calls_of(lowered.name)[0].rate
        return next(index for index, call in enumerate(self.module.calls) if call.rate == rate)

    def _read_shared(
        self, index: int, host: Lowered, lowered: Lowered, node: fx.Node, hint: str, plan: _Plan
    ) -> fx.Node:
        """An input of this definition that every call binds to the host's plan."""
        module, first = self.module, self.module.calls[index]
        if (host.name, plan) not in self.ports:
            port = _free_port(host, f"mask_{hint}")
            made = self.made.get((host.name, plan)) or _inserted(host, node, hint, plan)
            add_output(host, port, made)
            self.ports[host.name, plan] = port, made
            module.calls[index] = replace(first, outputs={**first.outputs, port: f"{port}:{first.rate}"})
        port, made = self.ports[host.name, plan]
        value = module.calls[index].outputs[port]
        read = add_input(lowered, _free_port(lowered, port), type_of(made))
        module.calls = [
            replace(call, inputs={**call.inputs, str(read.target): value}) if call.definition == lowered.name else call
            for call in module.calls
        ]
        return read


def _inserted(host: Lowered, node: fx.Node, hint: str, plan: _Plan) -> fx.Node:
    """The node that makes the plan, before all others of a definition."""
    fields = dict(plan.fields)
    names = {"position": plan.position, "key_position": plan.key_position}
    names |= {"lengths": "lengths"} if fields["keys"] == "ring" else {}
    inputs = {port: add_ambient(host, name, ambient_type(name)) for port, name in names.items() if name is not None}
    path = f"{site_of(node).path}.{hint}"
    number = sum(site.path.startswith(path) for _, site in host.sites())
    path = f"{path}_{number}" if number else path
    return insert_before(first_op(host), op=MASK_PLAN, path=path, fields=fields, inputs=inputs, like=node)["out"]


def _free_port(lowered: Lowered, name: str) -> str:
    """The name, or with a number where the definition has it already."""
    taken = {*lowered.placeholders, *lowered.outputs}
    return next(one for one in (name, *(f"{name}_{i}" for i in range(1, len(taken) + 2))) if one not in taken)
