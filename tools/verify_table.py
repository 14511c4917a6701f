"""Prints what `--verify` measured of each node, the worst first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..compiler.places import Places
from .terminal import table

if TYPE_CHECKING:
    from ..runtime.node_errors import NodeError

SHOWN = 12
COLUMNS = (">ratio", ">error", ">reference", "node", "op", "kernel", "phase", "place")


def print_nodes(nodes: Sequence[NodeError], document: Path) -> None:
    """One line for the nodes of all layers together, that of the worst. `document`: what places are relative to."""
    groups: dict[tuple[str, str], list[NodeError]] = {}
    for one in nodes:
        groups.setdefault((re.sub(r"(?<![^.])[0-9]+(?![^.])", "*", one.path), one.port), []).append(one)
    worst = {key: max(members, key=lambda one: one.ratio) for key, members in groups.items()}
    listed = sorted(worst.items(), key=lambda item: -item[1].ratio)
    places = Places(document)
    rows = [
        (
            f"{one.ratio:.2f}",
            f"{one.error:.1e}",
            f"{one.reference_error:.1e}",
            f"{path}:{port}",
            one.op,
            one.kernel,
            one.phase,
            places.at(one.span),
        )
        for (path, port), one in listed[:SHOWN]
    ]
    table(COLUMNS, rows)
    if len(listed) > SHOWN:
        print(f"{len(listed) - SHOWN} more, at most {listed[SHOWN][1].ratio:.2f} times the reference's own error")
