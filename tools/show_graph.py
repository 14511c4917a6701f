"""`llmc show` as Mermaid and as DOT: one box a definition with its nodes, arrows along the data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ..specs.diagnostics import printable
from .describe import Description, Part


def mermaid(found: Description) -> str:
    """Mermaid flowchart text. Labels are quoted, with every character that Mermaid or HTML reads escaped."""
    lines = ["flowchart TD"]
    for index, part in enumerate(found.parts):
        lines.append(f'  subgraph d{index}["{_mermaid(_title(part))}"]')
        ids = _ids(index, part)
        for node in part.nodes:
            lines.append(f'    {ids[node.path]}["{_mermaid(node.path)}<br/>{_mermaid(node.op)} {_mermaid(node.type)}"]')
        lines += [f"    {start} --> {end}" for start, end in _edges(part, ids)]
        lines.append("  end")
    lines += [f"  d{index} --> d{index + 1}" for index in range(len(found.parts) - 1)]
    return "\n".join(lines) + "\n"


def dot(found: Description) -> str:
    """Graphviz text. Names are quoted strings."""
    lines = [f"digraph {_quoted(found.name)} {{", "  compound=true; node [shape=box];"]
    for index, part in enumerate(found.parts):
        ids = _ids(index, part)
        lines += [f"  subgraph cluster_{index} {{", f"    label={_quoted(_title(part))};"]
        lines += [
            f"    {ids[node.path]} [label={_quoted(node.path + chr(10) + node.op + ' ' + node.type)}];"
            for node in part.nodes
        ]
        lines += [f"    {start} -> {end};" for start, end in _edges(part, ids)]
        lines.append("  }")
    joints = [(index, part) for index, part in enumerate(found.parts) if part.nodes]
    for (a, before), (b, after) in itertools.pairwise(joints):
        last, first = _ids(a, before)[before.nodes[-1].path], _ids(b, after)[after.nodes[0].path]
        lines.append(f"  {last} -> {first} [ltail=cluster_{a}, lhead=cluster_{b}];")
    return "\n".join([*lines, "}"]) + "\n"


def _title(part: Part) -> str:
    times = f" x{len(part.instances)}" if len(part.instances) > 1 else ""
    return f"{part.name}  {part.label}{times}"


def _ids(index: int, part: Part) -> dict[str, str]:
    return {node.path: f"n{index}_{position}" for position, node in enumerate(part.nodes)}


def _edges(part: Part, ids: dict[str, str]) -> Iterator[tuple[str, str]]:
    for node in part.nodes:
        for source in node.inputs:
            path = source.partition(":")[0]
            if path in ids:
                yield ids[path], ids[node.path]


def _mermaid(text: str) -> str:
    return (
        "".join(c if c.isalnum() or c in " ._-,[]{}x" else f"#{ord(c)};" for c in text)
        .replace("[", "#91;")
        .replace("]", "#93;")
    )


def _quoted(text: str) -> str:
    lines = [printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in text.split("\n")]
    return '"' + "\\n".join(lines) + '"'
