"""`llmc list`: the packaged specs."""

from __future__ import annotations

from dataclasses import asdict

import click

from ..options import json_option
from ..terminal import count, table, write_json


@click.command("list")
@json_option
def command(as_json: bool) -> None:
    """The packaged specs: exact parameters (tied tensors once), layers and context."""
    from ...runtime.listed import listed

    found = listed()
    if as_json:
        write_json([{key: value for key, value in asdict(one).items() if key != "error" or value} for one in found])
        return
    rows = [
        (
            one.name,
            str(one.error) if one.parameters is None else count(one.parameters),
            "-" if one.layers is None else str(one.layers),
            "-" if one.context is None else str(one.context),
            one.summary,
        )
        for one in found
    ]
    table(["name", ">parameters", ">layers", ">context", "summary"], rows)
