"""Wires `cache: PATH`: the keys and values of the node at PATH become inputs of the node that reads them.

rewrite:
    layers.3: attend(q, k, v)      layers.5: attend(q, cache: layers.3.attend)
    -> layers.3: attend(q, k, v), gives k and v      layers.5: takes both, attend(q, k, v)

Without state, as in training, that is all there is to sharing; with state the reader keeps none of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..specs.diagnostics import Note, did_you_mean, fail
from .bind import Body, Repetition
from .ir import INPUT, Node, Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A node that keys and values can be read from, and where it stands in the order of execution."""

    order: tuple[int, int, int]
    body: Body
    node: Node


def connect_caches(top: Body) -> None:
    """Give every node with `cache:` the inputs it shares.

    Raises LlmcError E0303 where no attention stands at PATH, E0510 where it is not earlier or reads a cache itself.
    """
    bodies = list(_bodies(top))
    if not any(body.caches for _, body in bodies):
        return
    places = {
        f"{body.prefix}.{node.path}" if body.prefix else node.path: _Place(order=(*order, index), body=body, node=node)
        for order, body in bodies
        for index, node in _cached(body, order)
    }
    for order, body in bodies:
        for index, node in _cached(body, order):
            if node.path in body.caches:
                producer = _producer(node, body.caches[node.path], places, (*order, index))
                _connect(node, producer, top, body)


def _bodies(top: Body) -> Iterator[tuple[tuple[int, int], Body]]:
    """The top level and every instance of a repeat; the top level's own nodes order by their item."""
    yield (-1, -1), top
    for at, item in enumerate(top.items):
        if isinstance(item, Repetition):
            yield from (((at, instance), body) for instance, body in enumerate(item.bodies))


def _cached(body: Body, order: tuple[int, int]) -> list[tuple[int, Node]]:
    return [(i, item) for i, item in enumerate(body.items) if isinstance(item, Node) and item.op.cached_ports]


def _when(order: tuple[int, int, int]) -> tuple[int, int, int]:
    """Comparable between the top level and the inside of a repeat."""
    return (order[2], -1, -1) if order[0] < 0 else order


def _producer(node: Node, path: str, places: dict[str, _Place], order: tuple[int, int, int]) -> _Place:
    found = places.get(path)
    if found is None:
        raise fail(
            "E0303",
            f"cache names {path!r}, but no attention node stands there",
            node.place("cache"),
            help=did_you_mean(path, places) or "write the whole path, e.g. model.layers.3.self_attn.attend",
        )
    if found.node.fields.values.get("cache") is not None or _when(found.order) >= _when(order):
        reason = "reads another cache itself" if _when(found.order) < _when(order) else "does not come before this node"
        raise fail(
            "E0510",
            f"cache names {path!r}, which {reason}",
            node.place("cache"),
            notes=(Note(text="named here", span=found.node.span),),
            help="name an earlier attention that has keys and values of its own",
        )
    return found


def _connect(node: Node, producer: _Place, top: Body, body: Body) -> None:
    inputs = dict(node.inputs)
    for port in node.op.cached_ports:
        source = producer.node.inputs[port]
        assert isinstance(source, Ref)
        if producer.body is not top:
            name = next((n for n, ref in producer.body.outputs.items() if ref == source), None)
            if name is None:
                name = _port_name(producer.node, port)
                producer.body.outputs[name] = source
            source = Ref(producer.body.prefix, name)
        if body is not top:
            name = _port_name(node, port)
            body.taps[name] = source
            body.inputs = (*body.inputs, name)
            source = Ref(INPUT, name)
        inputs[port] = source
    body.items[body.items.index(node)] = replace(node, inputs=inputs)


def _port_name(node: Node, port: str) -> str:
    return re.sub(r"\W+", "_", f"{node.path}_{port}")
