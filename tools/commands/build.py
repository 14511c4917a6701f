"""`llmc build`: a spec becomes a folder with the resolved spec, the readable program and the plan."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import as_params, device_option, dtype_option, json_option, set_option, spec_argument
from ..phase_log import PhaseLog
from ..targets import locate
from ..terminal import bytes_text, count, table, write_json

if TYPE_CHECKING:
    from ...compiler.native.formats import Quantize
    from ...compiler.ops.declaration import Value
    from ...compiler.program import Program
    from ...runtime.artifact import Artifact
    from ..verify_program import Verification


@click.command("build")
@spec_argument()
@click.option("-o", "--output", metavar="DIR", help="Default: build/<name>.")
@set_option
@click.option("--weights", metavar="DIR", help="Folder with safetensors; checked against the spec and remembered.")
@device_option
@dtype_option
@click.option("--quantize", type=click.Choice(["int8", "int4", "ternary"]), help="Pack the weights.")
@click.option("--verify", is_flag=True, help="Compare the numbers of every pass and every node with the reference.")
@click.option(
    "--strict-kernels",
    is_flag=True,
    help="Refuse attention or a norm that falls back to its reference; on a GPU more, in training too.",
)
@json_option
def command(
    spec: str,
    output: str | None,
    settings: tuple[tuple[str, Value], ...],
    weights: str | None,
    device: str,
    dtype: str | None,
    quantize: Quantize | None,
    verify: bool,
    strict_kernels: bool,
    as_json: bool,
) -> None:
    """Compile a spec. Needs no weights, and reads none unless --weights is given."""
    phases = PhaseLog(is_quiet=as_json)
    from ...specs.diagnostics import fail

    phases.load("compiler", ".compiler.pipeline")
    with phases.time("locate"):
        found = locate(spec, as_params(settings))
    from ...compiler.pipeline import read

    resolved, model = read(found.spec, found.params, origin=found.origin, on_phase=phases)
    phases.load("torch", "torch")
    phases.load("kernels", ".compiler.program", ".runtime.artifact", *((".runtime.weights",) if weights else ()))
    from ...compiler.program import compile_model

    given = weights or (str(found.folder) if found.folder is not None and not found.is_built else None)
    folder = None if given is None else Path(given)
    chosen = dtype
    if folder is not None:
        with phases.time("weights"):
            chosen = _check_weights(resolved, model, folder, dtype)
    program = compile_model(resolved, model, device=device, dtype=chosen or "float32", on_phase=phases)
    if strict_kernels:
        from ..strict_kernels import require_kernels

        with phases.time("strict kernels"):
            require_kernels(program, is_trained=quantize is None)
    compared: Verification | None = None
    packing: str | None = None
    if verify:
        from ..verify_program import verify_program

        with phases.time("verify"):
            compared = verify_program(program, weights=folder, quantize=quantize)
    from ...runtime.artifact import write_artifact

    target = Path(output) if output is not None else Path("build") / program.spec.name
    if quantize is not None:
        if folder is None:
            raise fail("E0708", f"--quantize {quantize} packs weights", help="give the folder with --weights DIR")
        with phases.time("pack"):
            program, error = _pack(program, quantize, folder, target)
            packing = f"{quantize}: {error}"
        folder, dtype = target, None
    with phases.time("emit"):
        artifact = write_artifact(program, target, dtype=dtype, weights=folder)
    phases.end()
    _show(program, artifact, compared, packing, phases, as_json)


def _pack(program: Program, quantize: str, weights: Path, target: Path) -> tuple[Program, str]:
    """Write the packed weights into the folder that is built, those of a GPU too; returns the program that reads them,
    and what packing costs on a text."""
    from dataclasses import replace
    from typing import cast

    from ...compiler.program import compile_model
    from ...runtime.checkpoint import open_checkpoint
    from ...runtime.load import load_program
    from ...runtime.packed_folder import write_packed
    from ...runtime.quantisation_error import quantisation_error, sample

    width, is_for_gpu = cast("Quantize", quantize), program.target.device != "cpu"
    here = compile_model(program.spec, program.model, dtype=program.target.dtype) if is_for_gpu else program
    if is_for_gpu:  # raises where its kernels do not serve, before anything is written
        program = program.quantized(width)
    with open_checkpoint(weights) as checkpoint:
        reference, model = (load_program(here, weights, checkpoint) for _ in range(2))
        write_packed(model, width, target)
    error = quantisation_error(reference, model, sample(reference))
    return program if is_for_gpu else replace(program, native=model.packed_executor().native), str(error)


def _check_weights(resolved: object, model: object, folder: Path, dtype: str | None) -> str:
    """Match the folder's tensors with the spec's parameters, and return the dtype to compile for."""
    from typing import cast

    from ...compiler.ir import Model
    from ...compiler.spec import Spec
    from ...compiler.weight_map import weight_map
    from ...runtime.checkpoint import open_checkpoint
    from ...runtime.containment import require_folder
    from ...runtime.weights import checkpoint_dtype, match_checkpoint

    with open_checkpoint(require_folder(folder)) as checkpoint:
        match_checkpoint(weight_map(cast("Spec", resolved), cast("Model", model)), checkpoint)
        return dtype or str(checkpoint_dtype(checkpoint)).removeprefix("torch.")


def _show(
    program: Program,
    artifact: Artifact,
    compared: Verification | None,
    packing: str | None,
    phases: PhaseLog,
    as_json: bool,
) -> None:
    from ...runtime.artifact import plan_values

    sizes = program.plan
    kernels = _kernels(program)
    verified = compared.lines if compared is not None else []
    if as_json:
        values = plan_values(program)
        seconds = {name: round(time, 6) for name, time in phases.phases}
        folder = artifact.folder.as_posix()
        write_json(
            {
                **values,
                "folder": folder,
                "hash": artifact.hash,
                "seconds": seconds,
                "verified": verified,
                "passes": [asdict(one) for one in compared.passes] if compared is not None else [],
                "nodes": [one.as_json() for one in compared.nodes] if compared is not None else [],
                "packing": packing,
            }
        )
        return
    per_token = _state_per_token(program)
    definitions = ", ".join(
        f"{name} x{len(program.module.calls_of(name))}" if len(program.module.calls_of(name)) > 1 else name
        for name in program.module.definitions
    )
    rows = [
        ("parameters", count(sizes.parameters)),
        (
            "bytes",
            ", ".join(
                f"{name} {bytes_text(sizes.parameters * size)}" for name, size in (("float32", 4), ("bfloat16", 2))
            ),
        ),
        ("ops", f"{count(program.ops_before)} before fusion, {count(program.ops_after)} after"),
        ("definitions", definitions),
        (
            "state",
            f"{bytes_text(per_token)} per token, {bytes_text(sizes.state_bytes)} at {count(sizes.context)} tokens",
        ),
        *_target(program),
        *_native(program),
        *((f"kernels {phase}", text) for phase, text in kernels.items()),
        *(("verified", line) for line in verified),
        *((("packing", packing),) if packing else ()),
        ("artifact", f"{artifact.folder.as_posix()}  sha256:{artifact.hash[:16]}"),
    ]
    print()
    table([program.spec.name, ""], rows)
    if compared is not None:
        from ..verify_table import print_nodes

        print()
        print_nodes(compared.nodes, program.spec.document.path)
    shown = shlex.quote(artifact.folder.as_posix())
    follow = f"llmc generate {shown} -p 'Once upon a time'"
    print(f"\nNext: {follow}{'' if _has_weights(artifact) else ' --weights DIR      (or --random)'}")
    print(f"      llmc show {shown} --format text")


def _has_weights(artifact: Artifact) -> bool:
    import json

    return json.loads((artifact.folder / "manifest.json").read_text())["weights"] is not None


def _state_per_token(program: Program) -> float:
    """Bytes that one more token of context adds, at short contexts."""
    from ...compiler.plan import ITEMSIZE, state_bytes

    size = ITEMSIZE[program.plan.dtype]
    return sum(
        state_bytes(state.spec, 1, 2, size) - state_bytes(state.spec, 1, 1, size) for state in program.plan.states
    )


def _target(program: Program) -> list[tuple[str, str]]:
    """An architecture that need not be here: its limits, and whether a GPU of it holds the weights and one context."""
    from ...kernels.gpu.target import asked_target
    from .explain import limits

    target, sizes = asked_target(program.target.device), program.plan
    if target is None:
        return []
    needed = sizes.weight_bytes + sizes.state_bytes
    verdict = "fits" if needed <= target.memory else "does not fit"
    memory = f"{bytes_text(needed)} of {bytes_text(target.memory)} ({target.example})"
    return [("target", limits(target)), ("memory", f"{verdict}: {memory}")]


def _native(program: Program) -> list[tuple[str, str]]:
    """How many native calls a pass takes, and what torch runs between them."""
    from ...compiler.native.regions import Region, regions

    if program.native is None:
        return []
    parts = regions(program.module, program.native)
    found = sum(isinstance(part, Region) for part in parts)
    calls = sum(part.count for part in parts if isinstance(part, Region))
    lines = [
        ("machine code", f"{found} region{'' if found == 1 else 's'}, {calls} of {len(program.module.calls)} calls")
    ]
    for name, why in program.native.refused.items():
        lines.append((f"torch runs {name}", str(why)))
    for name, plain in program.native.unpacked.items():
        lines += [(f"not packed in {name}", f"{path}: {reason}") for path, reason in dict.fromkeys(plain.values())]
    return lines


def _kernels(program: Program) -> dict[str, str]:
    """By phase, `attend_cached=sdpa x32`, counted over all calls; machine code as one, references last."""
    found: dict[str, str] = {}
    for phase, by_definition in program.kernels.items():
        counted: Counter[tuple[str, str]] = Counter()
        references = native = 0
        for name, choices in by_definition.items():
            calls = len(program.module.calls_of(name))
            for choice in choices:
                if choice.kernel == "reference":
                    references += calls
                elif choice.kernel == "native":
                    native += calls
                else:
                    counted[choice.op, choice.kernel] += calls
        named = [f"{op}={kernel} x{number}" for (op, kernel), number in sorted(counted.items())]
        others = [f"{name} x{number}" for name, number in (("native", native), ("reference", references)) if number]
        found[phase] = ", ".join([*named, *others])
    return found
