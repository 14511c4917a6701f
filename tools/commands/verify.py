"""`llmc verify`: a model against its reference in transformers, node by node, and the first that parts."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import as_params, json_option, set_option, spec_argument
from ..terminal import log, write_json

if TYPE_CHECKING:
    from ...compiler.ops.declaration import Value
    from ...runtime.node_by_node import Comparison


@click.command("verify")
@spec_argument("target")
@click.option("--against", required=True, metavar="HF_DIR", help="The folder whose model transformers runs.")
@click.option(
    "--tokens", "count", metavar="N", default=24, show_default=True, help="How many random tokens to compare on."
)
@click.option("--seed", metavar="N", default=0, show_default=True, help="Seed of the tokens.")
@set_option
@json_option
def command(
    target: str, against: str, count: int, seed: int, settings: tuple[tuple[str, Value], ...], as_json: bool
) -> None:
    """Run TARGET with the weights of HF_DIR, and transformers on the same tokens, and compare wherever names meet.

    TARGET is a spec, or HF_DIR itself. Exit status 1 where they part.
    """
    import torch

    from ...runtime.load import load
    from ...runtime.named_inputs import made_up, prompt_input
    from ...runtime.node_by_node import compare
    from ...runtime.reference_trace import reference_trace

    folder = Path(against)
    params = as_params(settings)
    is_folder = Path(target).is_dir()
    model = load(target, weights=None if is_folder else folder, params=params, dtype="float32")
    vocabulary = model.program.spec.environment.get("vocab_size")
    size = vocabulary if isinstance(vocabulary, int) else 256
    tokens = torch.randint(0, size, (1, count), generator=torch.Generator().manual_seed(seed))
    log("running the reference")
    given = made_up(model.program.model, tokens, count + 3, torch.Generator().manual_seed(seed + 1))
    source = prompt_input(model.program.model.inputs)
    prompt = None if source is None else given[source.name]
    found = compare(model, tokens, reference_trace(folder, tokens, prompt), given)
    first = next((one for one in found if one.has_parted), None)
    if as_json:
        write_json({"comparisons": [asdict(one) for one in found], "first": None if first is None else asdict(first)})
    else:
        _print(found, first)
    if first is not None or not found:
        raise SystemExit(1)


def _print(found: list[Comparison], first: Comparison | None) -> None:
    if not found:
        print("no node of the spec has the path of a module of the reference")
        return
    groups: dict[str, list[Comparison]] = {}
    for one in found:
        groups.setdefault(f"{re.sub(r'[.][0-9]+(?=[.]|$)', '.*', one.path)} {one.what}", []).append(one)
    print(f"{'worst ratio':>11}  {'met':>5}  node")
    for name, members in groups.items():
        worst = max(members, key=lambda one: one.ratio)
        mark = "  <- parted" if worst.has_parted else ""
        print(f"{worst.ratio:11.1e}  {len(members):4d}x  {name}  {worst.place}{mark}")
    if first is None:
        print(f"equal: {len(found)} meetings, worst ratio {max(one.ratio for one in found):.1e}")
        return
    print(f"first to part: the {first.what} of {first.path}, {first.place}, error ratio {first.ratio:.1e}")
    print("made by " + ", then ".join(reversed(first.suspects)))
