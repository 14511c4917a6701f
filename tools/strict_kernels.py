"""`llmc build --strict-kernels`: what matters for speed must not fall back to a reference where a kernel exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..compiler.lowered import Module, site_of
from ..compiler.program import Program
from ..compiler.select import Choice
from ..kernels.registry import kernels_for
from ..specs.diagnostics import Diagnostic, LlmcError, Note

ON_A_GPU = ("scan", "short_conv", "experts", "router", "ternary_linear", "ternary_projection")


def require_kernels(program: Program, *, is_trained: bool = True) -> None:
    """Raises LlmcError E0606 for each such node, with every kernel's reason.

    Where the target is a GPU the modules count too, unless the model is packed, so that nobody trains it.
    """
    found: dict[tuple[str, str], Diagnostic] = {}
    for phase, choices_of, module in _phases(program, is_trained=is_trained):
        for name, choices in choices_of.items():
            nodes = module.definitions[name].graph.nodes
            spans = {site_of(node).path: site_of(node).span for node in nodes if "site" in node.meta}
            for choice in choices:
                if (
                    not _is_meant(choice.op, program.target.device)
                    or choice.kernel != "reference"
                    or not kernels_for(choice.op)
                ):
                    continue
                notes = tuple(Note(text=f"{kernel}: {reason}") for kernel, reason in choice.refused)
                diagnostic = Diagnostic(
                    code="E0606",
                    message=f"{choice.path} ({choice.op}) falls back to the reference in {phase}",
                    span=spans.get(choice.path),
                    notes=notes,
                    help="change what the kernel refuses, or build without --strict-kernels",
                )
                found[f"{phase == 'train'}.{name}", choice.path] = diagnostic
    if found:
        raise LlmcError(list(found.values()))


def _phases(program: Program, *, is_trained: bool) -> Iterator[tuple[str, Mapping[str, Sequence[Choice]], Module]]:
    for phase, choices in program.kernels.items():
        yield phase, choices, program.module
    if is_trained and program.target.device.startswith("cuda"):
        yield "train", program.training.kernels, program.training.module


def _is_meant(op: str, device: str) -> bool:
    """Attention and norms; on a GPU scans, experts and ternary layers as well."""
    if "norm" in op or "attention" in op or "attend" in op:
        return True
    return device.startswith("cuda") and op in ON_A_GPU
