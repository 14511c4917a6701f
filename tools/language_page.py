"""Writes the generated part of specs/README.md: one entry per op, from its declaration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..compiler.ops import OPS
from ..compiler.ops.declaration import Field, Op
from ..kernels.states import STATES

BEGIN, END = "<!-- generated: llmc.tools.language_page -->", "<!-- end of the generated part -->"
KINDS = {
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "str": "text",
    "int_list": "whole numbers",
    "float_list": "numbers",
    "int_map": "names to whole numbers",
}


def op_pages() -> str:
    """All public ops in the order of `OPS`, then the kinds of state."""
    pages = [_op(op) for op in OPS if not op.is_internal]
    states = [f"| `{kind.name}` | {kind.doc} | {kind.rollback} | {kind.prefix_share} |" for kind in STATES.values()]
    table = ["| state | what it holds | rollback | prefix sharing |", "|---|---|---|---|", *states]
    return "\n".join([*pages, "### Kinds of state", "", *table, ""])


def _op(op: Op) -> str:
    return "\n".join([f"### {op.name}", "", f"{op.summary}.", "", *_ports(op), *_fields(op), ""])


def _ports(op: Op) -> Iterator[str]:
    for port in op.ports:
        note = " (several)" if port.is_variadic else " (optional)" if port.is_optional else ""
        yield f"- in `{port.name}`{note}: {port.doc}"
    for name in op.ambient:
        yield f"- reads the ambient `{name}`"


def _fields(op: Op) -> Iterator[str]:
    if op.fields:
        yield from ("", "| field | kind | default | |", "|---|---|---|---|")
    for field in op.fields:
        yield f"| `{field.name}` | {_kind(field)} | {_default(field)} | {field.doc} |"


def _kind(field: Field) -> str:
    return ", ".join(f"`{choice}`" for choice in field.choices) if field.choices else KINDS[field.kind]


def _default(field: Field) -> str:
    if field.is_required:
        return "required"
    shown = {None: "absent", True: "true", False: "false"}
    value = field.default
    return shown[value] if value is None or isinstance(value, bool) else f"`{value}`"


def updated(page: str) -> str:
    """The page with its generated part written afresh."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{op_pages()}\n{END}{after}"


def main() -> None:
    """Rewrite specs/README.md in place."""
    path = Path(__file__).parent.parent / "specs" / "README.md"
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
