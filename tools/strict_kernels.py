"""`llmc build --strict-kernels`: what matters for speed must not fall back to a reference where a kernel exists."""

from __future__ import annotations

from ..compiler.program import Program
from ..kernels.registry import kernels_for
from ..specs.diagnostics import Diagnostic, LlmcError, Note

ON_A_GPU = ("scan", "short_conv", "experts", "router", "ternary_linear", "ternary_projection")


def require_kernels(program: Program) -> None:
    """Raises LlmcError E0606 for each such node, with every kernel's reason."""
    found: dict[tuple[str, str], Diagnostic] = {}
    for phase, by_definition in program.kernels.items():
        for name, choices in by_definition.items():
            spans = {site.path: site.span for _, site in program.module.definitions[name].sites()}
            for choice in choices:
                if (
                    not _is_meant(choice.op, program.target.device)
                    or choice.kernel != "reference"
                    or not kernels_for(choice.op)
                ):
                    continue
                notes = tuple(Note(text=f"{kernel}: {reason}") for kernel, reason in choice.refused)
                found[name, choice.path] = Diagnostic(
                    code="E0606",
                    message=f"{choice.path} ({choice.op}) falls back to the reference in {phase}",
                    span=spans.get(choice.path),
                    notes=notes,
                    help="change what the kernel refuses, or build without --strict-kernels",
                )
    if found:
        raise LlmcError(list(found.values()))


def _is_meant(op: str, device: str) -> bool:
    """Attention and norms; on a GPU scans, experts and ternary layers as well."""
    if "norm" in op or "attention" in op or "attend" in op:
        return True
    return device.startswith("cuda") and op in ON_A_GPU
