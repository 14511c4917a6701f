"""`llmc explain`: why each kernel was chosen and the others refused, or what a code means."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..options import as_params, device_option, dtype_option, json_option, set_option, spec_argument
from ..targets import locate
from ..terminal import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...compiler.ir import Call
    from ...compiler.native.formats import Quantize
    from ...compiler.ops.declaration import Value
    from ...compiler.program import Program
    from ...kernels.gpu.target import GpuTarget

TRAIN = "train"
PHASES = ("prefill", "decode", TRAIN)


@click.command("explain")
@spec_argument("subject")
@click.argument("node", required=False)
@device_option
@dtype_option
@click.option(
    "--phase",
    "phases",
    type=click.Choice(PHASES),
    multiple=True,
    help="A phase to explain. Can be given again. Default: all, on a CPU all but train.",
)
@click.option("--quantize", type=click.Choice(["int8", "int4", "ternary"]), help="As it runs on packed weights.")
@set_option
@json_option
def command(
    subject: str,
    node: str | None,
    device: str,
    dtype: str | None,
    phases: tuple[str, ...],
    quantize: Quantize | None,
    settings: tuple[tuple[str, Value], ...],
    as_json: bool,
) -> None:
    """Explain a code (E0203), or for a spec the kernel of every node with each refusal and its reason.

    NODE narrows it to nodes whose path contains it (`layers.3.mlp`). --device cuda:sm_90 asks about a machine that is
    elsewhere. Prefill and decode are the fused program, train the modules: two graphs; packed weights are not trained.
    """
    if re.fullmatch(r"[EeWw]\d+", subject):
        _explain_code(subject.upper(), as_json)
        return
    found = locate(subject, as_params(settings))
    from ...compiler.pipeline import build
    from ...kernels.gpu.target import asked_target

    program = build(found.spec, found.params, origin=found.origin, device=device, dtype=dtype or "float32")
    wanted = phases or PHASES[: None if device.startswith("cuda") else -1]
    if quantize is not None:
        program, wanted = program.quantized(quantize), [phase for phase in wanted if phase != TRAIN]
    chosen = _choices(program, node, wanted)
    if as_json:
        write_json(chosen)
        return
    target = asked_target(device)
    if target is not None:
        print(limits(target))
    previous: object = None
    for one in chosen:
        is_trained = one["phase"] == TRAIN
        if (one["definition"], is_trained) != previous:
            print(f"{one['definition']}  x{one['calls']}{'  in training' if is_trained else ''}")
            previous = (one["definition"], is_trained)
        phase = "" if one["phase"] in ("both", TRAIN) else f" ({one['phase']})"
        print(f"  {one['path']}  {one['op']} -> {one['kernel']}{phase}  {one['place']}")
        for name, reason in one["refused"]:  # type: ignore[attr-defined]
            print(f"      {name}: {reason}")


def limits(target: GpuTarget) -> str:
    """What kernels have to do with on an architecture."""
    float8 = "float8" if target.has_float8 else "no float8"
    return f"{target.architecture}: {target.shared_memory // 1024} KiB of shared memory a block, {float8}"


def _explain_code(code: str, as_json: bool) -> None:
    from ...specs.codes import CODES
    from ...specs.diagnostics import did_you_mean

    if code not in CODES:
        raise click.UsageError(
            f"there is no code {code}; {did_you_mean(code, CODES) or 'codes are E0101 and the like'}"
        )
    found = CODES[code]
    if as_json:
        write_json({"code": code, **asdict(found)})
        return
    print(f"{code}: {found.title}\n\n{found.explanation}".rstrip())


def _choices(program: Program, node: str | None, phases: Sequence[str]) -> list[dict[str, object]]:
    """By definition, node and phase; prefill and decode that agree are one entry. Raises E0303 for a node that is
    nowhere."""
    found: list[dict[str, object]] = []
    paths: set[str] = set()

    def is_meant(definition: str, calls: Sequence[Call], path: str) -> bool:
        absolute = [call.binding.absolute(path) for call in calls]
        paths.update((path, *absolute))
        return node is None or any(f".{node}." in f".{one}." for one in (path, *absolute))

    inferred = {phase: found for phase, found in program.kernels.items() if phase in phases}
    for name in program.module.definitions if inferred else ():
        calls = program.module.calls_of(name)
        for same in zip(*(by_definition[name] for by_definition in inferred.values()), strict=True):
            if not is_meant(name, calls, same[0].path):
                continue
            entry: dict[str, object] = {"definition": name, "calls": len(calls)}
            if len(same) > 1 and all((c.kernel, c.refused) == (same[0].kernel, same[0].refused) for c in same):
                found.append({**entry, "phase": "both", **asdict(same[0])})
            else:
                found += [{**entry, "phase": phase, **asdict(c)} for phase, c in zip(inferred, same, strict=True)]
    for name, choices in program.training.kernels.items() if TRAIN in phases else ():
        calls = program.training.module.calls_of(name)
        entry = {"definition": name, "calls": len(calls), "phase": TRAIN}
        found += [{**entry, **asdict(one)} for one in choices if is_meant(name, calls, one.path)]
    if node is not None and not found:
        from ...specs.diagnostics import did_you_mean, fail

        raise fail("E0303", f"the program has no node {node[:64]!r}", help=did_you_mean(node, paths))
    return found
