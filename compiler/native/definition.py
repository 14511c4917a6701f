"""Writes one definition as C: asks the emitter of every node, hands its results to the caller, plans its memory."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import cast

from torch import fx

from ...kernels.native.node import CacheView, NotNative, Place
from ...kernels.native.registry import native_kernel
from ..forced import forced_kernel
from ..lowered import Lowered, site_of, type_of
from ..ops.declaration import TensorType
from ..places import Places
from .body import Body, Operand
from .buffers import place
from .function import Port, function_text
from .layout import ctype_of, rows_of
from .writer import Writer

_ALWAYS_IMPLIED = ("state", "position", "lengths", "training", "dropout")
"""Operands that every pass has, or that inference does not use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeDefinition:
    """One definition in C. `values` are its inputs and then its outputs."""

    name: str
    text: str
    values: tuple[str, ...]
    parameters: tuple[Operand, ...]
    floats: int
    """Floats a row of its own buffers."""
    widest: int
    """Inputs of its widest matrix."""
    headers: tuple[str, ...]
    sources: tuple[str, ...]


def write_definition(lowered: Lowered, dtype: str, places: Places, formats: Mapping[str, str]) -> NativeDefinition:
    """The C function of a definition. Raises NotNative where a node of it has no code.

    dtype: of weights that are not packed; places: how comments name the spec's lines; formats: of packed parameters.
    """
    body, placeholders = Body(lowered, formats), lowered.placeholders
    for index, name in enumerate(lowered.inputs):
        body.known[placeholders[name]] = _caller_place(type_of(placeholders[name]), f"v{index}")
    for name in lowered.ambient:
        body.known[placeholders[name]] = _ambient_place(type_of(placeholders[name]), name)
    for node in lowered.graph.nodes:
        if node.op == "call_function" and node.target is not operator.getitem:
            _write_node(body, node, dtype, places)
    renamed = _bind_outputs(body)
    ports = _ports(lowered)
    return NativeDefinition(
        name=lowered.name,
        floats=place(buffer for name, buffer in body.buffers.items() if name not in renamed),
        text=function_text(body, ports, renamed),
        values=tuple(port.name for port in ports),
        parameters=tuple(body.parameters),
        widest=body.widest,
        headers=tuple(body.headers),
        sources=tuple(body.sources),
    )


def _caller_place(found: TensorType, pointer: str) -> Place:
    """A value that the caller hands in."""
    rows, shape = rows_of(found)
    return Place(pointer=pointer, shape=shape, stride=prod(shape), rows=rows, ctype=ctype_of(found), buffer=pointer)


def _ambient_place(found: TensorType, name: str) -> Place:
    rows, shape = rows_of(found)
    return Place(pointer=f"pass->{name}", shape=shape, stride=1, rows=rows, ctype="int64_t")


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
    _require_all_read(node, writer.asked | {*kernel.implied, *_ALWAYS_IMPLIED})
    body.headers |= dict.fromkeys(kernel.headers)
    body.sources |= dict.fromkeys(kernel.sources)
    names = list(site.types)
    if len(names) == 1:
        body.known[node] = writer.outputs[names[0]]
        return
    for user in node.users:
        name = names[cast("int", user.args[1])]
        if name in writer.outputs:
            body.known[user] = writer.outputs[name]


def commented(text: str) -> str:
    """Text that may stand in a comment of C."""
    return ascii(text)[1:-1].replace("*/", "*_/")


def _require_all_read(node: fx.Node, known: set[str]) -> None:
    """Raises NotNative for an operand that the emitter left out: its code would compute something else."""
    path = site_of(node).path
    unread = sorted(set(node.kwargs) - known)
    if unread:
        raise NotNative(f"the kernel in C knows nothing of {', '.join(unread)}", path)
    for name in ("position", "lengths"):
        operand = node.kwargs.get(name)
        if isinstance(operand, fx.Node) and operand.target != name:
            raise NotNative(f"{name} is {operand.target}, not that of the tokens", path)


def _bind_outputs(body: Body) -> dict[str, str]:
    """Let the buffers that become outputs be the caller's memory, and copy what is not a buffer of its own."""
    lowered, renamed = body.lowered, dict[str, str]()
    for index, name in enumerate(lowered.outputs):
        node, target = lowered.results[index], f"v{len(lowered.inputs) + index}"
        if node.op == "placeholder" and str(node.target) in lowered.parameters:
            raise NotNative("an output is a parameter")
        known = body.known.get(node)
        if known is None or isinstance(known, CacheView):
            raise NotNative("an output is not a value in C")
        is_own = known.pointer == known.buffer and known.buffer in body.buffers and known.buffer not in renamed
        if is_own and known.is_dense:
            renamed[known.buffer] = target
            continue
        copy = f"memcpy({target} + r * {known.width}, {known.row()}, {known.width} * sizeof({known.ctype}));"
        body.add_row(f"/* output {commented(name)} */\n{copy}\n", known.rows)
        body.keep((known.buffer,))
    return renamed


def _ports(lowered: Lowered) -> list[Port]:
    """The inputs and then the outputs, as the function declares them."""
    results = lowered.results[: len(lowered.outputs)]
    inputs = [(name, lowered.placeholders[name], True) for name in lowered.inputs]
    outputs = [(name, node, False) for name, node in zip(lowered.outputs, results, strict=True)]
    return [
        Port(name=name, ctype=ctype_of(type_of(node)), is_input=is_input)
        for name, node, is_input in (*inputs, *outputs)
    ]
