"""`llmc check`: every mistake of every spec, without torch."""

from __future__ import annotations

import sys
from math import prod
from typing import TYPE_CHECKING

import click

from ..options import as_params, json_option, set_option, spec_argument
from ..terminal import count, use_color, write_json

if TYPE_CHECKING:
    from ...compiler.ops.declaration import Value


@click.command("check")
@spec_argument("specs", nargs=-1)
@set_option
@json_option
@click.pass_context
def command(ctx: click.Context, specs: tuple[str, ...], settings: tuple[tuple[str, Value], ...], as_json: bool) -> None:
    """Check specs: one line for each that is right, and for each mistake its code, place and remedy.

    All specs are checked; the exit status is 1 if any is wrong.
    """
    from ...compiler.pipeline import read
    from ...compiler.weight_map import weight_map
    from ...specs.codes import exit_status
    from ...specs.diagnostics import Diagnostic, LlmcError, printable
    from ...specs.render import render, to_json

    results: list[dict[str, object]] = []
    mistakes: list[Diagnostic] = []
    for target in specs:
        try:
            spec, model = read(target, as_params(settings), origin="--set")
            weights = weight_map(spec, model)
        except LlmcError as error:
            mistakes += error.diagnostics
            results.append({"target": target, "ok": False, "diagnostics": to_json(error.diagnostics)})
            continue
        parameters = sum(prod(p.shape) for path, p in weights.parameters.items() if path not in weights.ties)
        definitions = len(model.definitions)
        results.append(
            {
                "target": target,
                "ok": True,
                "name": spec.name,
                "definitions": definitions,
                "calls": len(model.calls),
                "parameters": parameters,
                "diagnostics": [],
            }
        )
        if not as_json:
            plural = "" if definitions == 1 else "s"
            line = f"ok  {spec.name}  {definitions} definition{plural}  {count(parameters)} parameters"
            click.echo(printable(line))
    if as_json:
        write_json(results)
    elif mistakes:
        sys.stdout.flush()
        sys.stderr.write(render(mistakes, color=use_color(sys.stderr)))
    ctx.exit(exit_status(mistake.code for mistake in mistakes))
