"""`llmc show`: a spec as a table, as its program's text, as a page, as a graph; two specs as their difference."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..options import as_params, json_option, output_option, set_option, spec_argument
from ..targets import locate
from ..terminal import write_result

if TYPE_CHECKING:
    from ...compiler.ops.declaration import Value
    from ..describe import Description

FORMATS = ("table", "text", "html", "mermaid", "dot", "json")


@click.command("show")
@spec_argument()
@spec_argument("other", is_required=False)
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@output_option
@set_option
@json_option
def command(
    spec: str,
    other: str | None,
    form: str,
    output: str | None,
    settings: tuple[tuple[str, Value], ...],
    as_json: bool,
) -> None:
    """Show a spec or a built folder; with OTHER, how the two differ.

    `text` is the fused program, as `llmc build` writes it; `html` one page that works offline.
    """
    form = "json" if as_json else form
    if other is not None:
        if form not in ("table", "json"):
            raise click.UsageError("two specs are compared as --format table or json")
        write_result(_difference(_describe(spec, settings), _describe(other, settings), form), output)
        return
    write_result(_program(spec, settings) if form == "text" else _render(_describe(spec, settings), form), output)


def _describe(target: str, settings: tuple[tuple[str, Value], ...]) -> Description:
    from ...compiler.pipeline import read
    from ..describe import describe

    found = locate(target, as_params(settings))
    return describe(*read(found.spec, found.params, origin=found.origin))


def _render(found: Description, form: str) -> str:
    if form == "html":
        from ..show_html import html

        return html(found)
    if form in ("mermaid", "dot"):
        from .. import show_graph

        return show_graph.mermaid(found) if form == "mermaid" else show_graph.dot(found)
    from ..show_table import as_json, print_table

    if form == "json":
        return _json(as_json(found))
    with contextlib.redirect_stdout(io.StringIO()) as text:
        print_table(found)
    return text.getvalue()


def _difference(left: Description, right: Description, form: str) -> str:
    from ..show_difference import differences, print_differences

    if form == "json":
        changes = [asdict(change) for change in differences(left, right)]
        return _json({"left": left.name, "right": right.name, "changes": changes})
    with contextlib.redirect_stdout(io.StringIO()) as text:
        print_differences(left, right)
    return text.getvalue()


def _json(value: object) -> str:
    from ..terminal import finite

    return json.dumps(finite(value), indent=1, allow_nan=False)


def _program(target: str, settings: tuple[tuple[str, Value], ...]) -> str:
    found = locate(target, as_params(settings))
    from ...compiler.emit import emit
    from ...compiler.pipeline import build

    return emit(build(found.spec, found.params, origin=found.origin))
