"""Makes every value of every call an output of the program, so that a run can be looked at node by node.

rewrite: layer(x): a = norm(x); b = linear(a); out: b
      -> layer(x): a = norm(x); b = linear(a); out: b, norm:out = a, linear:out = b

It is no pass of a usual build: `llmc build --verify` adds it after the others. What a cache is read as stays inside,
because it is the cache.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from torch import fx

from .lowered import Lowered, Module, site_of, type_of
from .native.sharing import CACHED
from .rewrite import add_output

_MARK = "kept"
"""Where an fx node's meta holds the port at which it is kept."""


def keep_values(module: Module) -> int:
    """Returns the number of values in all calls. The output of a value is named `PATH:PORT`, and with a number where a
    definition has several such."""
    kept = {name: dict(_values(lowered)) for name, lowered in module.definitions.items()}
    for name, values in kept.items():
        for port, node in values.items():
            add_output(module.definitions[name], port, node)
    count = 0
    for index, call in enumerate(module.calls):
        names = {port: f"{call.binding.own(port)}:kept" for port in kept[call.definition]}
        module.calls[index] = replace(call, outputs={**call.outputs, **names})
        module.outputs |= {call.binding.own(port): value for port, value in names.items()}
        count += len(names)
    return count


def kept_as(node: fx.Node) -> str | None:
    """The port at which its definition gives a value, `path:port`; None where it is not kept."""
    return cast("str | None", node.meta.get(_MARK))


def result_of(node: fx.Node) -> tuple[fx.Node, str]:
    """The op node that makes a value, and the port at which it gives it."""
    if node.target is operator.getitem:
        source = cast("fx.Node", node.args[0])
        return source, list(site_of(source).types)[cast("int", node.args[1])]
    return node, next(iter(site_of(node).types))


def _values(lowered: Lowered) -> Iterator[tuple[str, fx.Node]]:
    """Every value that has numbers of its own, by `path:port`."""
    count = Counter[str]()
    for node in lowered.graph.nodes:
        if node.op == "call_function" and type_of(node).shape and CACHED not in type_of(node).shape:
            source, port = result_of(node)
            name = f"{site_of(source).path}:{port}"
            count[name] += 1
            node.meta[_MARK] = f"{name}:{count[name]}" if count[name] > 1 else name
            yield node.meta[_MARK], node
