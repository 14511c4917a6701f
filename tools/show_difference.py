"""The difference of two specs: params, nodes, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..compiler.fields import show_value
from .describe import Description, NodeRow
from .terminal import big, bytes_text, count, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of the difference; None where a side has nothing there."""

    kind: str
    name: str
    left: str | None
    right: str | None


def differences(left: Description, right: Description) -> list[Change]:
    """Params and nodes that differ, in the order of the left spec, and then the totals, which are always there."""
    changes = _maps("param", _params(left), _params(right))
    changes += _maps("part", _parts(left), _parts(right))
    changes += _maps("node", _nodes(left), _nodes(right))
    totals = (
        ("parameters", count(left.parameters), count(right.parameters)),
        ("FLOPs/token", big(left.flops), big(right.flops)),
        ("context", count(left.context), count(right.context)),
        ("state bytes", bytes_text(left.state_bytes), bytes_text(right.state_bytes)),
    )
    return changes + [Change(kind="total", name=name, left=a, right=b) for name, a, b in totals]


def _maps(kind: str, left: Mapping[str, str], right: Mapping[str, str]) -> list[Change]:
    names = [*left, *(name for name in right if name not in left)]
    return [
        Change(kind=kind, name=name, left=left.get(name), right=right.get(name))
        for name in names
        if left.get(name) != right.get(name)
    ]


def _params(found: Description) -> dict[str, str]:
    return {name: show_value(value) for name, value in found.params.items()}


def _parts(found: Description) -> dict[str, str]:
    return {part.name: f"{part.label} x{len(part.instances)}" for part in found.parts}


def _nodes(found: Description) -> dict[str, str]:
    return {f"{part.name}/{node.path}": _node(node) for part in found.parts for node in part.nodes}


def _node(node: NodeRow) -> str:
    fields = ", ".join(f"{name}={value}" for name, value in node.fields.items())
    return f"{node.op}({', '.join(node.inputs)}{'; ' + fields if fields else ''}) {node.type}"


def print_differences(left: Description, right: Description) -> None:
    """Side by side; `-` where a side has nothing."""
    rows = [(change.kind, change.name, change.left or "-", change.right or "-") for change in differences(left, right)]
    table(("", "", left.name, right.name), rows)
