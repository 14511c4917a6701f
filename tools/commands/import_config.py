"""`llmc import`: a Hugging Face folder's config.json becomes a spec of a few lines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import json_option, output_option
from ..terminal import log, write_json, write_result

if TYPE_CHECKING:
    from ...compiler.ops.declaration import Value


@click.command("import")
@click.argument("folder", metavar="HF_DIR")
@output_option
@json_option
def command(folder: str, output: str | None, as_json: bool) -> None:
    """Write the spec that extends the family of HF_DIR with the params that differ.

    Keys of config.json that no spec understands are errors: what they mean would be lost.
    """
    from ...runtime.import_folder import import_folder
    from ...specs.yaml_writer import write_plain

    imported = import_folder(folder)
    given = Path(output).stem if output not in (None, "-") else Path(folder).resolve().name
    name = _spec_name(str(given)) or imported.spec
    params = _needed(imported.spec, imported.params)
    spec: dict[str, object] = {
        "llmc": 1,
        "name": name,
        "summary": f"Imported from the config.json of {Path(folder).resolve().name}",
        "extends": imported.spec,
        **({"params": params} if params else {}),
    }
    if as_json:
        write_json(spec)
        return
    write_result(write_plain(spec), output)
    if output not in (None, "-"):
        log(f"Next: llmc build {output} --weights {folder}")


def _spec_name(text: str) -> str:
    """The text as the name of a spec: letters, digits and `_`."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")[:64]
    return f"_{name}" if name[:1].isdigit() else name


def _needed(family: str, params: Mapping[str, Value]) -> dict[str, Value]:
    """The params without which the family would not be this model; what its own expressions give is left out."""
    from ...compiler.resolve import resolve
    from ...specs.document import load_document

    document = load_document(family)
    needed = dict(params)
    for name, value in params.items():
        rest = {key: other for key, other in needed.items() if key != name}
        own = resolve(document, rest).environment[name]
        if own == value and type(own) is type(value):
            needed = rest
    return needed
