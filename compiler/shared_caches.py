"""Wires `cache: PATH`: the keys and values of the node at PATH become inputs of the node that reads them.

rewrite:
    layers.3: attend(q, k, v)      layers.5: attend(q, cache: layers.3.attend)
    -> layers.3: attend(q, k, v); attend.shared = shared_keys(k, v)      layers.5: attend_shared(q, attend.shared)

Without state, as in training, these are the call's own keys; with state they are all that the one attention may read,
this call's tokens included, and the reader keeps none of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..specs.diagnostics import Note, did_you_mean, fail
from .bind import Body, Repetition
from .ir import AMBIENT_NODE, INPUT, Node, Ref
from .ops.attend_shared import ATTEND_SHARED
from .ops.attention import span_of
from .ops.declaration import Fields
from .ops.shared_keys import SHARED_KEYS


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
    _require_kept(node, producer.node)
    shared = _shared_keys(producer)
    inputs = dict(node.inputs)
    for port in shared.op.outputs:
        source = Ref(shared.path, port)
        if producer.body is not top and producer.body is not body:
            name = _port_name(producer.node, port)
            producer.body.outputs[name] = source
            source = Ref(producer.body.prefix, name)
        if body is not top and producer.body is not body:
            name = _port_name(node, port)
            body.taps[name] = source
            body.inputs = (*body.inputs, name)
            source = Ref(INPUT, name)
        inputs[port] = source
    body.items[body.items.index(node)] = replace(node, op=ATTEND_SHARED, inputs=inputs)


def _shared_keys(producer: _Place) -> Node:
    """The node behind the producer that gives its keys and values, made for its first reader."""
    node, items = producer.node, producer.body.items
    path = f"{node.path}.shared"
    found = next((item for item in items if isinstance(item, Node) and item.path == path), None)
    if found is not None:
        return found
    sizes = {name: node.fields.values.get(name) for name in ("head_dim", "v_head_dim")}
    ports = {port.name: node.inputs[port.name] for port in SHARED_KEYS.ports}
    made = replace(
        node,
        path=path,
        op=SHARED_KEYS,
        fields=Fields({"of": node.path, **sizes}),
        inputs={**ports, **{name: Ref(AMBIENT_NODE, name) for name in SHARED_KEYS.ambient}},
    )
    items.insert(items.index(node) + 1, made)
    return made


def _require_kept(node: Node, producer: Node) -> None:
    """Raises LlmcError E0510 where the node may see tokens that the producer's state no longer holds."""
    seen, kept = span_of(node.fields), span_of(producer.fields)
    is_within = kept is None or (seen is not None and seen <= kept)
    if is_within and node.fields["mask"] == producer.fields["mask"]:
        return
    raise fail(
        "E0510",
        f"this attention sees {_visibility(node)}, but the one that cache names keeps {_visibility(producer)}",
        node.place("cache"),
        notes=(Note(text="named here", span=producer.span),),
        help="give both the same mask, window and chunk",
    )


def _visibility(node: Node) -> str:
    span = span_of(node.fields)
    return f"{'all tokens' if span is None else f'{span} tokens'} ({node.fields['mask']})"


def _port_name(node: Node, port: str) -> str:
    return re.sub(r"\W+", "_", f"{node.path}_{port}")
