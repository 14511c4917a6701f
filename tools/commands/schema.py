"""`llmc schema`: the JSON Schema of the spec language, for editors."""

from __future__ import annotations

import click

from ..options import json_option, output_option
from ..terminal import write_result


@click.command("schema")
@output_option
@json_option
def command(output: str | None, as_json: bool) -> None:
    """Print the JSON Schema that `# yaml-language-server: $schema=` names. It is JSON with or without --json."""
    from ...compiler.schema import schema_text

    write_result(schema_text(), output)
