"""`llmc show` as a tree in a table, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from ..specs.diagnostics import printable
from .describe import Description, NodeRow, Part
from .terminal import big, bytes_text, count, table

COLUMNS = ("node", "op", "type", ">parameters", ">FLOPs/token", "state", "line")


def print_table(found: Description) -> None:
    """Blocks and nodes in order; a repeated block stands once, with its number of instances."""
    print(printable(f"{found.name}: {found.summary}"))
    print(f"in   {_ports(found.inputs)}\nout  {_ports(found.outputs)}\n")
    rows: list[tuple[str, ...]] = []
    for part in found.parts:
        rows.append(_part_row(part))
        rows += _tree(part.nodes, "", "  ")
    table(COLUMNS, rows)
    print(f"\nparameters   {count(found.parameters)} (tied and shared tensors once)")
    print(f"FLOPs        {big(found.flops)} for one token at {count(found.context)} tokens of context")
    print(f"state        {bytes_text(found.state_bytes)} for one row of {count(found.context)} tokens in float32")


def _ports(ports: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {found}" for name, found in ports.items())


def _part_row(part: Part) -> tuple[str, ...]:
    times = len(part.instances)
    total = sum(node.parameters for node in part.nodes)
    flops = sum(node.flops for node in part.nodes)
    state = sum(node.state_bytes for node in part.nodes)
    name = f"{part.name}  {part.label}" if part.label != "(top level)" else part.name
    suffix = f" x{times}" if times > 1 else ""
    return (
        name + suffix,
        "",
        "",
        count(total) + suffix,
        big(flops) + suffix,
        bytes_text(state) + suffix if state else "",
        "",
    )


def _tree(nodes: Sequence[NodeRow], prefix: str, indent: str) -> Iterator[tuple[str, ...]]:
    """Consecutive nodes of one block stand below a line with its name."""
    index = 0
    while index < len(nodes):
        head = nodes[index].path[len(prefix) :].split(".")[0]
        end = index + 1
        while end < len(nodes) and nodes[end].path[len(prefix) :].split(".")[0] == head:
            end += 1
        group = nodes[index:end]
        if len(group) == 1:
            yield _row(group[0], indent + group[0].path[len(prefix) :])
        else:
            yield (f"{indent}{head}", "", "", "", "", "", "")
            yield from _tree(group, f"{prefix}{head}.", indent + "  ")
        index = end


def _row(node: NodeRow, name: str) -> tuple[str, ...]:
    return (
        name,
        node.op,
        node.type,
        count(node.parameters) if node.parameters else "",
        big(node.flops) if node.flops else "",
        f"{node.state} {bytes_text(node.state_bytes)}" if node.state else "",
        node.place,
    )


def as_json(found: Description) -> dict[str, object]:
    """The description as JSON holds it."""
    values = asdict(found)
    for part, value in zip(found.parts, values["parts"], strict=True):
        value["label"] = part.label
    return values
