"""Cuts a definition of which only a part has code in C, so that torch runs the other nodes and nothing else.

rewrite: layer(x): a = linear(x); b = odd(a); c = add(x, b)
      -> layer_part1(x): a = linear(x)         machine code
         layer_part2(a): b = odd(a)            torch
         layer_part3(x, b): c = add(x, b)      machine code

The runtime sees whole definitions only: what one part gives to another is a value between calls like any other. Nodes
that read or write one cache stay on one side, because torch does not see what machine code has not stored yet.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable
from dataclasses import replace

from torch import fx

from ...kernels.native.node import NotNative
from ..extract import extract, free_name
from ..ir import Call
from ..lowered import Lowered, Module, identifier, type_of
from ..places import Places
from .definition import refused_nodes
from .sharing import CACHED, sharing


def split_refused(module: Module, dtype: str, places: Places) -> int:
    """Returns the number of definitions that were cut. `dtype` is that of the weights."""
    caches, in_torch = sharing(module), set[fx.Node]()
    mixed: list[Lowered] = []
    for name, lowered in module.definitions.items():
        lent, borrowed = caches.lent.get(name, {}), caches.borrowed.get(name, ())
        try:
            in_torch |= refused_nodes(lowered, dtype, places, lent=lent, borrowed=borrowed).keys()
            mixed.append(lowered)
        except NotNative:
            in_torch.update(node for node, _ in lowered.sites())
    for users in cache_users(module):
        if users & in_torch:
            in_torch |= users
    cut = 0
    for lowered in mixed:
        parts = _parts(lowered, in_torch)
        if len(parts) > 1 and _keeps_states_whole(lowered, parts):
            _cut(module, lowered, parts)
            cut += 1
    return cut


def cache_users(module: Module) -> list[set[fx.Node]]:
    """For every state, the nodes that read or write what it holds, in whatever definition they are."""
    readers: dict[str, set[tuple[str, str]]] = {}
    for call in module.calls:
        for port, value in call.inputs.items():
            for name in (value,) if isinstance(value, str) else value:
                readers.setdefault(name, set()).add((call.definition, port))
    found: list[set[fx.Node]] = []
    for name, lowered in module.definitions.items():
        for state in lowered.states:
            users, values = _touching(lowered.placeholders[state])
            for port, result in zip(lowered.outputs, lowered.results, strict=False):
                for call in module.calls_of(name) if result in values else ():
                    for reader, at in readers.get(call.outputs[port], ()):
                        users |= _touching(module.definitions[reader].placeholders[at])[0]
            found.append(users)
    return _merged(found)


def _touching(source: fx.Node) -> tuple[set[fx.Node], set[fx.Node]]:
    """The ops that read a state or a part of a cache, and all values by which they hand it on."""
    users, values = set[fx.Node](), {source}
    pending = [source]
    while pending:
        for user in pending.pop().users:
            if user.op != "call_function":
                continue
            if user.target is not operator.getitem:
                users.add(user)
            elif type_of(user).shape and CACHED not in type_of(user).shape:
                continue
            if user not in values and (user.target is operator.getitem or not type_of(user).shape):
                values.add(user)
                pending.append(user)
    return users, values


def _merged(groups: Iterable[set[fx.Node]]) -> list[set[fx.Node]]:
    """The groups, those that have a node in common as one."""
    found: list[set[fx.Node]] = []
    for group in groups:
        apart = [one for one in found if not one & group]
        found = [*apart, group.union(*(one for one in found if one & group))]
    return found


def _parts(lowered: Lowered, in_torch: set[fx.Node]) -> list[list[fx.Node]]:
    """The nodes in runs, by turns machine code's and torch's; results of one op stay with it."""
    found: list[list[fx.Node]] = []
    for _, run in itertools.groupby((node for node, _ in lowered.sites()), key=in_torch.__contains__):
        results = ((node, *(user for user in node.users if user.target is operator.getitem)) for node in run)
        found.append(list(itertools.chain.from_iterable(results)))
    return found


def _keeps_states_whole(lowered: Lowered, parts: list[list[fx.Node]]) -> bool:
    """Whether each state is threaded within one part: it cannot cross between two."""
    at = {node: number for number, part in enumerate(parts) for node in part}
    results = lowered.results[len(lowered.outputs) :]
    for name, successor in zip(lowered.states, results, strict=True):
        takers = [at[user] for user in lowered.placeholders[name].users if user in at]
        if {*takers} != {at.get(successor)}:
            return False
    return True


def _cut(module: Module, lowered: Lowered, parts: list[list[fx.Node]]) -> None:
    """Put definitions of the parts in the place of this one, and their calls in the place of its own."""
    at = {node: number for number, part in enumerate(parts) for node in part}
    ports = _crossing_ports(lowered, at)
    last = len(parts) - 1
    results = dict(zip(lowered.outputs, lowered.results, strict=False))
    states = dict(zip(lowered.states, lowered.results[len(lowered.outputs) :], strict=True))
    made: list[Lowered] = []
    for number, part in enumerate(parts):
        outputs = {port: node for port, node in results.items() if at.get(node, last) == number}
        read = {source for node in part for source in node.all_input_nodes} | set(outputs.values())
        made.append(
            extract(
                lowered,
                free_name(module, f"{lowered.name}_part{number + 1}"),
                part,
                outputs=outputs | {port: node for node, port in ports.items() if at[node] == number},
                successors={name: node for name, node in states.items() if at[node] == number},
                given={port: node for node, port in ports.items() if at[node] != number and node in read},
            )
        )
    listed = list(module.definitions.values())
    where = listed.index(lowered)
    module.definitions = {one.name: one for one in (*listed[:where], *made, *listed[where + 1 :])}
    module.calls = [
        one
        for call in module.calls
        for one in (_calls(call, made, list(ports.values())) if call.definition == lowered.name else (call,))
    ]


def _crossing_ports(lowered: Lowered, at: dict[fx.Node, int]) -> dict[fx.Node, str]:
    """The nodes that other parts read, and a port for each."""
    taken = {*lowered.placeholders, *lowered.outputs}
    ports: dict[fx.Node, str] = {}
    for node, number in at.items():
        if any(user in at and at[user] != number for user in node.users):
            name = identifier(node.name)
            while name in taken:
                name += "_"
            taken.add(name)
            ports[node] = name
    return ports


def _calls(call: Call, parts: list[Lowered], crossing: list[str]) -> list[Call]:
    """A call of each part, bound as the whole was."""
    prefix = call.binding.prefix or call.definition
    values = {**call.inputs, **{port: f"{prefix}.{port}:part" for port in crossing}}
    return [
        replace(
            call,
            definition=part.name,
            inputs={port: values[port] for port in part.inputs},
            outputs={port: call.outputs.get(port) or str(values[port]) for port in part.outputs},
        )
        for part in parts
    ]
