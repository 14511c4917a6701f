"""What goes to stdout (the result) and to stderr (progress): text, JSON, tables, files."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import click

from ..specs.diagnostics import printable

if TYPE_CHECKING:
    from rich.console import Console

UNBOUNDED_WIDTH = 1000
"""Columns of a table that goes to a file or a pipe: nothing is cut there."""


def use_color(stream: TextIO) -> bool:
    """Whether the stream is a terminal whose user has not asked for plain text."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def log(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def write_json(value: object) -> None:
    """The result for machines: one JSON value, ASCII only, infinities as text."""
    print(json.dumps(finite(value), indent=1, allow_nan=False))


def finite(value: object) -> object:
    """The value with infinities and NaN as text, which JSON lacks."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {str(key): finite(item) for key, item in cast("Mapping[object, object]", value).items()}
        case list() | tuple():
            return [finite(item) for item in cast("Sequence[object]", value)]
        case _:
            return value


def write_result(text: str, file: str | None) -> None:
    """The result as text, to stdout or (whole or not at all) to a file."""
    if file is None or file == "-":
        click.echo(text, nl=not text.endswith("\n"))
        return
    from ..runtime.atomic import write_atomically

    write_atomically(Path(file), text if text.endswith("\n") else text + "\n")
    log(f"wrote {printable(file)}")


def console(stream: TextIO | None = None) -> Console:
    """A rich console that reads no markup in what it prints."""
    from rich.console import Console

    out = sys.stdout if stream is None else stream
    return Console(
        file=out,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if out.isatty() else UNBOUNDED_WIDTH,
        no_color=not use_color(out),
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, stream: TextIO | None = None) -> None:
    """A table without rules. A column whose name begins with `>` is set flush right."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        grid.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    output = console(stream)
    with output.capture() as captured:
        output.print(grid)
    text = "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))
    print(text, file=stream or sys.stdout, flush=True)


def count(number: float) -> str:
    """`6,738,415,616`."""
    return f"{round(number):,}"


def big(number: float) -> str:
    """Three figures and a letter of k M B T P: `6.74 B`."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"


def bytes_text(number: float) -> str:
    """`12.6 GiB`."""
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{round(number)} B"
