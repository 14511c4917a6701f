"""The folder that `llmc build` writes: manifest, resolved spec, program in Python and in C, plan. Nothing in it is run.

Each file is replaced whole, the manifest last, and nothing in them depends on when or where they were written: the same
spec, params and version of llmc give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from ..compiler.emit import emit
from ..compiler.program import Program
from ..specs.diagnostics import fail
from ..specs.yaml_writer import with_params, write_yaml
from .atomic import write_atomically

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What was written: the folder, and one hash over all files beside the manifest."""

    folder: Path
    hash: str


def render_artifact(
    program: Program, folder: Path, *, dtype: str | None = None, weights: Path | None = None
) -> tuple[Mapping[str, str], str]:
    """The text of every file by name, the manifest last, and the hash. `dtype` is the one that was asked for."""
    overrides = {name: param.value for name, param in program.spec.params.items() if param.origin == "override"}
    header = f"# {program.spec.name}: the spec with all that it extends, as `llmc build` resolved it.\n"
    files = {
        "spec.yaml": header + write_yaml(with_params(program.spec.document.root, overrides)),
        "program.py": emit(program),
        "plan.json": to_text(plan_values(program)),
    }
    if program.native is not None and program.native.definitions:
        files["program.c"] = program.native.text
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    total = hashlib.sha256(to_text(hashes).encode()).hexdigest()
    manifest = {
        "format": FORMAT,
        "llmc": version("llmc"),
        "name": program.spec.name,
        "set": overrides,
        "device": program.target.device,
        "dtype": dtype,
        "weights": None if weights is None else os.path.relpath(weights.resolve(), folder.resolve()),
        "files": hashes,
        "hash": total,
    }
    return {**files, "manifest.json": to_text(manifest)}, total


def write_artifact(
    program: Program, folder: Path, *, dtype: str | None = None, weights: Path | None = None
) -> Artifact:
    """Write the folder, making it where it is absent. Raises E0757 where it cannot be written."""
    files, total = render_artifact(program, folder, dtype=dtype, weights=weights)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise fail(
            "E0757", f"cannot make the folder {folder}: {error.strerror}", help="name another with -o"
        ) from error
    for name, text in files.items():
        write_atomically(folder / name, text)
    return Artifact(folder=folder, hash=total)


def plan_values(program: Program) -> dict[str, object]:
    """What the program costs and which kernels it runs, as JSON holds it."""
    sizes = program.plan
    return {
        "parameters": sizes.parameters,
        "weight_bytes": sizes.weight_bytes,
        "batch": sizes.batch,
        "context": sizes.context,
        "dtype": sizes.dtype,
        "decode_flops": sizes.decode_flops,
        "prefill_flops": sizes.prefill_flops,
        "state_bytes": sizes.state_bytes,
        "states": [
            {"path": state.path, "kind": state.spec.kind, "sizes": dict(state.spec.sizes), "bytes": state.bytes}
            for state in sizes.states
        ],
        "ops_before": program.ops_before,
        "ops_after": program.ops_after,
        "rewrites": dict(program.rewrites),
        "definitions": {name: len(program.module.calls_of(name)) for name in program.module.definitions},
        "kernels": {
            phase: {
                name: [{key: value for key, value in asdict(choice).items() if key != "place"} for choice in choices]
                for name, choices in by_definition.items()
            }
            for phase, by_definition in program.kernels.items()
        },
    }


def to_text(values: object) -> str:
    """Sorted, indented JSON with a final newline; infinities as text."""
    return json.dumps(values, indent=1, sort_keys=True) + "\n"
