"""Takes out of a definition what is fed only by values that are given once, into one that runs once per request.

rewrite: layer(x, encoded): k = linear(encoded); s = append(state, k, v); keys = read(s); ...
      -> layer_once(encoded): s = append(state, linear(encoded), v)          called once
         layer(x): keys = read(state); ...                                   called for each piece of the stream

A value that crosses between the two is an output of the first, which is kept; a state is written by the one and read
by the other.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace

from torch import fx

from ..axes import is_of_stream
from ..extract import extract, free_name
from ..ir import Call
from ..lowered import Lowered, Module, identifier, set_results, site_of, type_of
from ..rewrite import add_input, erase_placeholders


def hoist_once(module: Module) -> int:
    """Returns the number of ops moved."""
    once = once_values(module)
    count = 0
    for name in [name for name in module.definitions if any(c.rate == "stream" for c in module.calls_of(name))]:
        lowered = module.definitions[name]
        calls = module.calls_of(name)
        ports = {port for port in lowered.inputs if all(_is_once(call.inputs[port], once) for call in calls)}
        moved = _fed_once(lowered, ports)
        if moved:
            _move(module, lowered, moved)
            count += sum("site" in node.meta for node in moved)
    module.calls.sort(key=lambda call: call.rate != "once")  # what runs for each token comes in one piece
    return count


def once_values(module: Module) -> set[str]:
    """The program values that do not change after the first call."""
    once = {port.name for port in module.model.inputs if port.rate == "once"}
    for call in module.calls:
        if call.rate == "once":
            once |= set(call.outputs.values())
    return once


def kept_values(module: Module) -> set[str]:
    """Those of `once_values` that calls after the first read."""
    read = set(module.outputs.values())
    for call in module.calls:
        if call.rate != "once":
            for value in call.inputs.values():
                read |= set(value) if isinstance(value, tuple) else {value}
    return once_values(module) & read


def _is_once(value: str | tuple[str, ...], once: set[str]) -> bool:
    return set((value,) if isinstance(value, str) else value) <= once


def _fed_once(lowered: Lowered, ports: set[str]) -> dict[fx.Node, None]:
    """The nodes that read a once value, and beside such only parameters, states and scalars; in order.

    A node that reads a state which another one has made stays: what a state keeps needs not be kept again.
    """
    placeholders = lowered.placeholders
    sources = {placeholders[port] for port in ports}
    sources |= {placeholders[name] for name in lowered.ambient if not is_of_stream(name)}
    neutral = {placeholders[name] for name in (*lowered.parameters, *lowered.states, *lowered.scalars)}
    found: dict[fx.Node, None] = {}
    for node in lowered.graph.nodes:
        if node.op != "call_function" or node.kwargs.get("state") in found:
            continue
        read = set(node.all_input_nodes)
        if read & (sources | found.keys()) and read <= sources | neutral | found.keys():
            found[node] = None
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """A state that a moved node takes: its placeholder, and what that node makes of it."""

    name: str
    successor: fx.Node
    is_read_after: bool


def _move(module: Module, lowered: Lowered, moved: dict[fx.Node, None]) -> None:
    states = [found for name in lowered.states if (found := _state(lowered, name, moved)) is not None]
    successors = {state.successor for state in states}
    crossing = [node for node in moved if node not in successors and _leaves(node, moved)]
    names = _port_names(lowered, crossing)
    hoisted = extract(
        lowered,
        free_name(module, f"{lowered.name}_once"),
        moved,
        outputs=dict(zip(names, crossing, strict=True)),
        successors={state.name: state.successor for state in states},
        given={},
    )
    used = {port: index for index, port in enumerate(hoisted.inputs)}
    listed = list(module.definitions.values())
    listed.insert(listed.index(lowered), hoisted)
    module.definitions = {one.name: one for one in listed}
    for node, name in zip(crossing, names, strict=True):
        node.replace_all_uses_with(add_input(lowered, name, type_of(node)))
    for state in states:
        _keep_reader(lowered, state)
    for node in reversed(moved):
        lowered.graph.erase_node(node)
    _drop_unread(lowered)
    calls: list[Call] = []
    first = next(index for index, call in enumerate(module.calls) if call.definition == lowered.name)
    for call in module.calls:
        if call.definition != lowered.name:
            calls.append(call)
            continue
        prefix = call.binding.prefix or lowered.name
        crossed = {name: f"{prefix}.{name}:once" for name in names}
        given = {port: value for port, value in call.inputs.items() if port in used}
        inputs = {**{p: v for p, v in call.inputs.items() if p in lowered.inputs}, **crossed}
        once = replace(call, definition=hoisted.name, inputs=given, outputs=crossed, rate="once")
        calls.insert(first, once)
        first += 1
        calls.append(replace(call, inputs={port: inputs[port] for port in lowered.inputs}))
    module.calls = calls


def _state(lowered: Lowered, name: str, moved: dict[fx.Node, None]) -> _State | None:
    taker = next(iter(lowered.placeholders[name].users))
    if taker not in moved:
        return None
    successor = taker
    if len(site_of(taker).types) > 1:
        successor = next(user for user in taker.users if user.target is operator.getitem and user.args[1] == 0)
    result = lowered.results[len(lowered.outputs) + list(lowered.states).index(name)]
    return _State(name=name, successor=successor, is_read_after=result is not successor)


def _leaves(node: fx.Node, moved: dict[fx.Node, None]) -> bool:
    return any(user not in moved for user in node.users)


def _port_names(lowered: Lowered, crossing: list[fx.Node]) -> list[str]:
    taken = set(lowered.placeholders)
    names: list[str] = []
    for node in crossing:
        name = identifier(node.name)
        while name in taken:
            name += "_"
        taken.add(name)
        names.append(name)
    return names


def _keep_reader(lowered: Lowered, state: _State) -> None:
    """What comes after the moved node reads the state as it finds it; a state that nothing else reads is let go."""
    source = lowered.placeholders[state.name]
    if state.is_read_after:
        state.successor.replace_all_uses_with(source)
        return
    index = len(lowered.outputs) + list(lowered.states).index(state.name)
    set_results(lowered, [result for at, result in enumerate(lowered.results) if at != index])
    del lowered.states[state.name]


def _drop_unread(lowered: Lowered) -> None:
    """Operands that only the moved nodes read."""
    unread = [node for node in lowered.placeholders.values() if not node.users]
    names = {str(node.target) for node in unread} - set(lowered.states)
    erase_placeholders(lowered, [node for node in unread if str(node.target) in names])
    lowered.inputs = [name for name in lowered.inputs if name not in names]
    lowered.ambient = [name for name in lowered.ambient if name not in names]
    lowered.parameters = {name: formula for name, formula in lowered.parameters.items() if name not in names}
    lowered.scalars = {name: scalar for name, scalar in lowered.scalars.items() if name not in names}
