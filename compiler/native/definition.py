"""Writes one definition as C: asks the emitter of every node, hands its results to the caller, plans its memory."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import cast

from torch import fx

from ...kernels.native.node import CacheView, NotNative, Place
from ...kernels.native.registry import native_kernel
from ..axes import ambient_name, ambient_parts
from ..forced import forced_kernel
from ..lowered import Lowered, site_of, type_of
from ..ops.declaration import TensorType
from ..places import Places
from .body import Body, Operand
from .buffers import place
from .function import Port, function_text
from .layout import ctype_of, rows_of, token_axis
from .sharing import Borrowed, Part, part_rows
from .writer import Writer

MODEL_TYPES: Mapping[str, str] = MappingProxyType(
    {"float32": "LLMC_FLOAT32", "bfloat16": "LLMC_BFLOAT16", "float16": "LLMC_FLOAT16"}
)
"""How C names the dtypes that weights may have."""
_ALWAYS_IMPLIED = ("state", "position", "lengths", "training", "dropout")
"""Operands that every pass has, or that inference does not use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeDefinition:
    """One definition in C. `values` are its inputs and then its outputs."""

    name: str
    text: str
    axis: str
    """Whose tokens its rows are; empty where it has none."""
    values: tuple[str, ...]
    parameters: tuple[Operand, ...]
    floats: int
    """Floats a row of its own buffers."""
    widest: int
    """Inputs of its widest matrix."""
    headers: tuple[str, ...]
    sources: tuple[str, ...]


def write_definition(
    lowered: Lowered,
    dtype: str,
    places: Places,
    *,
    formats: Mapping[str, str],
    lent: Mapping[str, Part],
    borrowed: Sequence[Borrowed],
) -> NativeDefinition:
    """The C function of a definition. Raises NotNative where a node of it has no code.

    dtype: of weights that are not packed; places: how comments name the spec's lines; formats: of packed parameters;
    lent and borrowed: the caches that it shares with other calls.
    """
    body, ports = _open(lowered, dtype, formats, lent, borrowed)
    for node in lowered.graph.nodes:
        if node.op == "call_function" and node.target is not operator.getitem:
            _write_node(body, node, dtype, places)
    renamed = _bind_outputs(body)
    ports += _output_ports(body)
    return NativeDefinition(
        name=lowered.name,
        floats=place(buffer for name, buffer in body.buffers.items() if name not in renamed),
        text=function_text(body, ports, renamed),
        axis=body.axis,
        values=(*lowered.inputs, *lowered.outputs),
        parameters=tuple(body.parameters),
        widest=body.widest,
        headers=tuple(body.headers),
        sources=tuple(body.sources),
    )


def write_packed(
    lowered: Lowered,
    dtype: str,
    places: Places,
    *,
    formats: Mapping[str, str],
    lent: Mapping[str, Part],
    borrowed: Sequence[Borrowed],
) -> tuple[NativeDefinition, Mapping[str, tuple[str, str]]]:
    """As `write_definition`, but a node that has no code for its packed matrices reads them as they are.

    Gives the placeholders of these too, each with the path of its node and the reason.
    """
    try:
        return write_definition(lowered, dtype, places, formats=formats, lent=lent, borrowed=borrowed), {}
    except NotNative:
        refused = refused_nodes(lowered, dtype, places, formats=formats, lent=lent, borrowed=borrowed)
        plain = {
            str(value.target): (site_of(node).path, reason.reason)
            for node, reason in refused.items()
            for value in node.all_input_nodes
            if str(value.target) in formats
        }
        if not plain:
            raise
    kept = {name: format for name, format in formats.items() if name not in plain}
    return write_definition(lowered, dtype, places, formats=kept, lent=lent, borrowed=borrowed), plain


def refused_nodes(
    lowered: Lowered,
    dtype: str,
    places: Places,
    *,
    lent: Mapping[str, Part],
    borrowed: Sequence[Borrowed],
    formats: Mapping[str, str] = MappingProxyType({}),
) -> dict[fx.Node, NotNative]:
    """The nodes of a definition that have no code, each with the reason, were the others' results handed in.

    The arguments are those of `write_definition`. Raises NotNative where the definition as a whole has none.
    """
    body, _ = _open(lowered, dtype, formats, lent, borrowed)
    found: dict[fx.Node, NotNative] = {}
    for node, _site in lowered.sites():
        try:
            _write_node(body, node, dtype, places)
        except NotNative as reason:
            found[node] = reason
            for value in (node, *(user for user in node.users if user.target is operator.getitem)):
                with suppress(NotNative):  # what has no rows stays unknown, and its readers have no code either
                    body.known[value] = _caller_place(type_of(value), value.name)
    return found


def _open(
    lowered: Lowered, dtype: str, formats: Mapping[str, str], lent: Mapping[str, Part], borrowed: Sequence[Borrowed]
) -> tuple[Body, list[Port | None]]:
    """A body that knows what the definition is given, and the ports by which it is."""
    if dtype not in MODEL_TYPES:
        raise NotNative(f"there are no kernels in C for {dtype}")
    body = Body(lowered, formats, _axis(lowered, borrowed), lent, borrowed)
    ports = _know_inputs(body)
    for name in lowered.ambient:
        node = lowered.placeholders[name]
        rows, shape = rows_of(type_of(node))
        pointer = f"pass->{ambient_parts(name)[0]}"
        body.known[node] = Place(pointer=pointer, shape=shape, stride=1, rows=rows, ctype="int64_t")
    return body, ports


def _axis(lowered: Lowered, borrowed: Sequence[Borrowed]) -> str:
    """The axis that all values of a definition lie on."""
    caches = {port for cache in borrowed for port in cache.ports.values()}
    found = {token_axis(type_of(lowered.placeholders[name])) for name in lowered.inputs if name not in caches}
    found |= {ambient_parts(name)[1] for name in lowered.ambient}
    found.discard("")
    if len(found) > 1:
        raise NotNative(f"its tokens are of several axes: {', '.join(sorted(found))}")
    return next(iter(found), "")


def _know_inputs(body: Body) -> list[Port | None]:
    """What each input is in C; gives those that lie in memory."""
    lowered, placeholders = body.lowered, body.lowered.placeholders
    rows: dict[str, TensorType | None] = {name: type_of(placeholders[name]) for name in lowered.inputs}
    for cache in body.borrowed:
        rows |= {port: part_rows(cache.spec, name) for name, port in cache.ports.items()}
    found = {name: _caller_place(row, f"v{index}") for index, (name, row) in enumerate(rows.items()) if row is not None}
    body.known |= {placeholders[name]: place for name, place in found.items()}
    for number, cache in enumerate(body.borrowed):
        new = [found[cache.ports[name]] for name in ("keys", "values") if cache.ports[name] in found]
        view = CacheView(state=body.borrowed_state(number), new=tuple(new))
        body.known |= {placeholders[port]: view for port in cache.ports.values()}
    return [Port(name=n, ctype=found[n].ctype, is_input=True) if n in found else None for n in lowered.inputs]


def _caller_place(found: TensorType, pointer: str) -> Place:
    """A value that the caller hands in."""
    rows, shape = rows_of(found)
    return Place(pointer=pointer, shape=shape, stride=prod(shape), rows=rows, ctype=ctype_of(found), buffer=pointer)


def _write_node(body: Body, node: fx.Node, dtype: str, places: Places) -> None:
    """The code of one op, and what its outputs are from now on."""
    site = site_of(node)
    forced = forced_kernel(node)
    if forced is not None:
        raise NotNative(f"x-kernels asks for {forced}", site.path)
    kernel = native_kernel(site.op.name)
    if kernel is None:
        raise NotNative(f"op {site.op.name} has no kernel in C", site.path)
    comment = commented(f"{places.at(site.span)} {site.path}")
    writer = Writer(body, node, site, dtype=dtype, comment=comment)
    try:
        kernel.emit(writer)
    except NotNative as error:
        raise NotNative(error.reason, error.path or site.path) from error
    _require_all_read(body, node, writer.asked | {*kernel.implied, *_ALWAYS_IMPLIED})
    body.headers |= dict.fromkeys(kernel.headers)
    body.sources |= dict.fromkeys(kernel.sources)
    names = list(site.types)
    if len(names) == 1:
        if names[0] in writer.outputs:
            body.known[node] = writer.outputs[names[0]]
        return
    for user in node.users:
        name = names[cast("int", user.args[1])]
        if name in writer.outputs:
            body.known[user] = writer.outputs[name]


def commented(text: str) -> str:
    """Text that may stand in a comment of C."""
    return ascii(text)[1:-1].replace("*/", "*_/")


def _require_all_read(body: Body, node: fx.Node, known: set[str]) -> None:
    """Raises NotNative for an operand that the emitter left out: its code would compute something else."""
    path = site_of(node).path
    unread = sorted(set(node.kwargs) - known)
    if unread:
        raise NotNative(f"the kernel in C knows nothing of {', '.join(unread)}", path)
    for name in ("position", "lengths"):
        operand = node.kwargs.get(name)
        if isinstance(operand, fx.Node) and operand.target != ambient_name(name, body.axis):
            raise NotNative(f"{name} is {operand.target}, not that of the tokens", path)


def _bind_outputs(body: Body) -> dict[str, str]:
    """Let the buffers that become outputs be the caller's memory, and copy what is not a buffer of its own."""
    lowered, renamed = body.lowered, dict[str, str]()
    for index, name in enumerate(lowered.outputs):
        known, target = _output(body, name), f"v{len(lowered.inputs) + index}"
        if known is None:
            continue
        is_own = known.pointer == known.buffer and known.buffer in body.buffers and known.buffer not in renamed
        if is_own and known.is_dense:
            renamed[known.buffer] = target
            continue
        copy = f"memcpy({target} + r * {known.width}, {known.row()}, {known.width} * sizeof({known.ctype}));"
        body.add_row(f"/* output {commented(name)} */\n{copy}\n", known.rows)
        body.keep((known.buffer,))
    return renamed


def _output(body: Body, name: str) -> Place | None:
    """Where an output lies. Of a cache that is lent, the new rows, and nothing for positions."""
    node = body.lowered.results[body.lowered.outputs.index(name)]
    if node.op == "placeholder" and str(node.target) in body.lowered.parameters:
        raise NotNative("an output is a parameter")
    known = body.known.get(node)
    if isinstance(known, CacheView) and name in body.lent:
        part = body.lent[name].name
        return None if part == "key_position" or not known.new else known.new[part == "values"]
    if known is None or isinstance(known, CacheView):
        raise NotNative("an output is not a value in C")
    return known


def _output_ports(body: Body) -> list[Port | None]:
    places = [(name, _output(body, name)) for name in body.lowered.outputs]
    return [None if at is None else Port(name=name, ctype=at.ctype, is_input=False) for name, at in places]
