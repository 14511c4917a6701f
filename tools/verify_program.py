"""`llmc build --verify`: every pass, every node and the whole program against the unfused program, in numbers.

Passes are compared in float64, where they change nothing but rounding. Nodes are compared as they were compiled: each
against its reference in float64, on the inputs that the compiled program itself computed. Without weights a small
instance of the spec is run: some params are lowered one after another where the spec still checks. What was compared
is always said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..compiler.keep_values import keep_values
from ..compiler.native.formats import Quantize
from ..compiler.passes import PASSES
from ..compiler.program import Program, compile_model, passes_are_on
from ..kernels.tolerance import TOLERANCE, error_ratio
from ..runtime.checkpoint import open_checkpoint
from ..runtime.load import load_program
from ..runtime.model import LanguageModel
from ..runtime.node_errors import NodeError, NodeErrors
from ..specs.diagnostics import LlmcError, Note, fail
from ..specs.source import Span
from .verify_passes import PassError, pass_errors
from .verify_sample import TOKENS, given_inputs, random_model, random_tokens, run, small_instance

WHOLE_MODEL = 30
"""How many kernels' tolerances a whole model may use up."""
NOTED = 8
"""Wrong nodes that an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was compared: lines that say so, and the figures of every pass and node."""

    lines: list[str]
    passes: list[PassError]
    nodes: list[NodeError]


def verify_program(program: Program, *, weights: Path | None, quantize: Quantize | None = None) -> Verification:
    """Compare on the weights of a folder, or on random ones in small. Raises E0605 where two sides differ.

    quantize: how the matrices will be packed; nodes are compared packed then too, against the packed weights.
    """
    spec, model, lowered = small_instance(program.spec, program.model)
    said = {name: f"{len(one)} values" if isinstance(one, list) else one for name, one in lowered.items()}
    shape = ", ".join(f"{name}={value}" for name, value in said.items()) or "the spec as it is"
    tokens, dtype = random_tokens(spec), program.target.dtype
    passes = pass_errors(spec, model, tokens, PASSES)
    _require_passes(passes)
    lines = [
        f"{len(passes)} passes on {TOKENS} random tokens with random weights in float64 ({shape}): {_growth(passes)}"
    ]
    if weights is None:
        make, source = random_model, "random weights"
        compiled = compile_model(spec, model, dtype=dtype)
        unfused = run(random_model(compile_model(spec, model, dtype="float64", passes=())), tokens)
    else:
        make, source = partial(_loaded, weights), f"the weights of {weights}"
        is_here = program.target.device == "cpu"
        compiled = program if is_here else compile_model(program.spec, program.model, dtype=dtype)
        tokens = random_tokens(program.spec)
        unfused = _modules(make(compiled), tokens)
    fused = run(make(compiled), tokens)
    nodes, kept = _nodes(compiled, make, tokens)
    lines.append(_summary(nodes, dtype, source))
    _compare("memory was shared between values", kept, fused, TOLERANCE[getattr(torch, dtype)])
    if unfused:
        error = _compare("compilation", unfused, fused, WHOLE_MODEL * TOLERANCE[getattr(torch, dtype)])
        lines.append(f"the compiled program in {dtype} with {source}: error {error:.1e}")
    if quantize is not None:
        packed, _ = _nodes(compiled, make, tokens, quantize)
        lines.append(_summary(packed, quantize, source))
        nodes = packed
    return Verification(lines=lines, passes=passes, nodes=nodes)


def _loaded(weights: Path, program: Program) -> LanguageModel:
    with open_checkpoint(weights) as checkpoint:
        return load_program(program, weights, checkpoint)


def _modules(model: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    """The outputs of the modules, unfused as in training; none of a model that is packed."""
    if model.quantize is not None:
        return {}
    with torch.enable_grad():
        plain = model(tokens, **{**model.default_inputs(tokens), **given_inputs(model, tokens)})
    named = {next(iter(model.program.module.outputs)): plain} if isinstance(plain, Tensor) else dict(plain)
    return {name: value.detach() for name, value in named.items()}


def _nodes(
    program: Program, make: Callable[[Program], LanguageModel], tokens: Tensor, quantize: Quantize | None = None
) -> tuple[list[NodeError], dict[str, Tensor]]:
    """Every node of the program as it was compiled, and the outputs of the program that keeps its values."""
    passes = (*(PASSES if passes_are_on() else ()), keep_values)
    model = make(compile_model(program.spec, program.model, dtype=program.target.dtype, passes=passes))
    measured = NodeErrors(model, quantize=None if quantize is None else lambda: model.pack(quantize))
    outputs = run(model, tokens, measured.run)
    _require_nodes(measured.found)
    return measured.found, outputs


def _growth(passes: list[PassError]) -> str:
    """The largest error, and each pass after which it was larger than before."""
    grown: list[str] = []
    largest = 0.0
    for one in passes:
        if one.error > largest:
            largest = one.error
            grown.append(f"{one.error:.1e} after {one.name} at {one.worst}")
    return f"error {', '.join(grown) or '0'}"


def _summary(nodes: list[NodeError], format: str, source: str) -> str:
    worst = max(nodes, key=lambda one: one.ratio)
    count = len({one.path for one in nodes})
    return f"{count} nodes in {format} with {source}: at most {worst.ratio:.1f} times the reference's own error"


def _require_passes(passes: list[PassError]) -> None:
    wrong = next((one for one in passes if one.first is not None), None)
    if wrong is not None:
        message = f"after {wrong.name}, {wrong.first} differs from the program before it"
        note = Note(
            text=f"the error ratio is {wrong.error:.2e} at {wrong.worst}, of {wrong.met} values that were compared"
        )
        raise _bug(message, notes=(note,), help="this is a bug in llmc; LLMC_PASSES=0 runs the spec as it stands")


def _require_nodes(nodes: list[NodeError]) -> None:
    wrong = sorted((one for one in nodes if one.is_wrong), key=lambda one: -one.ratio)
    if wrong:
        notes = [Note(text=_described(one), span=one.span) for one in wrong[1 : NOTED + 1]]
        remedy = "this is a bug in llmc; " + (
            "LLMC_NATIVE=0 runs the program without machine code"
            if wrong[0].kernel == "native"
            else "LLMC_KERNELS=0 runs every node by its reference"
        )
        raise _bug(_described(wrong[0]), wrong[0].span, notes=notes, help=remedy)


def _described(one: NodeError) -> str:
    return (
        f"{one.path}:{one.port} ({one.op}, {one.kernel}, {one.phase}) is wrong by {one.error:.2e}, its reference in "
        f"{one.dtype} by {one.reference_error:.2e}"
    )


def _compare(what: str, expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], bound: float) -> float:
    """The largest error ratio of the outputs that both have."""
    worst = 0.0
    for name in expected.keys() & actual.keys():
        ratio = error_ratio(actual[name], expected[name])
        if not ratio <= bound:
            raise _bug(
                f"after {what}, {name} differs: error ratio {ratio:.2e}, allowed {bound:.0e}",
                help="this is a bug in llmc; LLMC_PASSES=0 runs the spec as it stands",
            )
        worst = max(worst, ratio)
    return worst


def _bug(message: str, span: Span | None = None, *, notes: Sequence[Note] = (), help: str) -> LlmcError:
    return fail("E0605", message, span, notes=notes, help=help)
