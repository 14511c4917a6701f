"""Checks every name that a spec gives: of itself, params, blocks, ports, nodes and outputs."""

from __future__ import annotations

from collections.abc import Iterator

from ..specs.diagnostics import Diagnostic, quoted
from ..specs.source import Span, YamlEntry, YamlList, YamlMap, YamlScalar
from .axes import looks_ambient
from .names import AMBIENT_NAMES, LAYER_NAMES, check_name
from .resolve import outputs, ports


def check_names(root: YamlMap) -> Iterator[Diagnostic]:
    """Every E0301 (a name that is not allowed) and E0302 (one that is taken), also where other things are malformed."""
    name = root.get("name")
    if isinstance(name, YamlScalar) and isinstance(name.value, str):
        yield from _illegal(name.value, "a spec", name.span)
    for key, entry in _entries(root, "params"):
        yield from _param(key, "a param", entry.key_span)
    for key, entry in _entries(root, "blocks"):
        yield from _illegal(key, "a block", entry.key_span)
        if isinstance(entry.value, YamlMap):
            for param, declared in _entries(entry.value, "params"):
                yield from _param(param, "a param", declared.key_span)
            yield from _ports_and_nodes(entry.value)
    graph = root.get("graph")
    if isinstance(graph, YamlMap):
        yield from _ports_and_nodes(graph)


def _entries(holder: YamlMap, key: str) -> Iterator[tuple[str, YamlEntry]]:
    section = holder.get(key)
    if isinstance(section, YamlMap):
        yield from section.entries.items()


def _param(name: str, what: str, span: Span) -> Iterator[Diagnostic]:
    yield from _illegal(name, what, span)
    if name in LAYER_NAMES - {"num_layers"}:
        yield _taken(name, what, span, "it is what a repeat or a share gives to expressions")


def _ports_and_nodes(holder: YamlMap) -> Iterator[Diagnostic]:
    taken: set[str] = set()
    for port in ports(holder.get("in")):
        yield from _illegal(port.text, "a port", port.span)
        if port.text in AMBIENT_NAMES or looks_ambient(port.text):
            yield _taken(port.text, "a port", port.span, "every block can read that tensor already; remove it from in:")
        elif port.text in taken:
            yield _taken(port.text, "a port", port.span, "two ports have that name")
        taken.add(port.text)
    for key, entry in _entries(holder, "nodes"):
        yield from _illegal(key, "a node", entry.key_span, is_path=True)
        if key in AMBIENT_NAMES:
            yield _taken(key, "a node", entry.key_span, "it is a tensor that every block can read")
        elif key in taken:
            yield _taken(key, "a node", entry.key_span, "it is an input here")
    out = holder.get("out")
    seen: set[str] = set()
    for port, reference in outputs(out).items():
        yield from _illegal(port, "an output", _output_span(out, port, reference.span))
    for item in out.items if isinstance(out, YamlList) else ():
        if isinstance(item, YamlScalar) and str(item.value) in seen:
            yield _taken(str(item.value), "an output", item.span, "it is listed twice")
        seen.add(str(item.value) if isinstance(item, YamlScalar) else "")


def _output_span(out: object, port: str, otherwise: Span) -> Span:
    entry = out.entries.get(port) if isinstance(out, YamlMap) else None
    return otherwise if entry is None else entry.key_span


def _illegal(name: str, what: str, span: Span, *, is_path: bool = False) -> Iterator[Diagnostic]:
    problem = check_name(name, what, span, is_path=is_path)
    if problem is not None:
        yield problem


def _taken(name: str, what: str, span: Span, why: str) -> Diagnostic:
    message = f"{what} cannot be named {quoted(name)}: {why}"
    return Diagnostic(code="E0302", message=message, span=span, help="choose another name")
