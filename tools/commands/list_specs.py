"""`llmc list`: the packaged specs."""

from __future__ import annotations

from math import prod

import click

from ..options import json_option
from ..terminal import count, table, write_json


@click.command("list")
@json_option
def command(as_json: bool) -> None:
    """The packaged specs: exact parameters (tied tensors once), layers and context."""
    from ...specs.packaged import packaged_names

    found = [_describe(name) for name in packaged_names()]
    if as_json:
        write_json(found)
        return
    rows = [
        (
            str(one["name"]),
            count(one["parameters"]) if isinstance(one["parameters"], int) else str(one["error"]),
            "-" if one["layers"] is None else str(one["layers"]),
            "-" if one["context"] is None else str(one["context"]),
            str(one["summary"]),
        )
        for one in found
    ]
    table(["name", ">parameters", ">layers", ">context", "summary"], rows)


def _describe(name: str) -> dict[str, object]:
    from ...compiler.pipeline import read
    from ...compiler.weight_map import weight_map
    from ...specs.diagnostics import LlmcError

    try:
        spec, model = read(name)
        weights = weight_map(spec, model)
    except LlmcError as error:
        nothing = {"parameters": None, "layers": None, "context": None}
        return {"name": name, "summary": "", **nothing, "error": error.diagnostics[0].code}
    layers, context = spec.environment.get("num_layers"), spec.environment.get("max_seq_len")
    return {
        "name": name,
        "summary": spec.summary,
        "parameters": sum(prod(p.shape) for path, p in weights.parameters.items() if path not in weights.ties),
        "layers": layers if isinstance(layers, int) else None,
        "context": context if isinstance(context, int) else None,
    }
