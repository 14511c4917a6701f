"""Launches of the activations that must compile for a GPU."""

from __future__ import annotations

from llmc.kernels.pointwise.triton_activation import BLOCK

from .compile_for_gpu import Case

ARGUMENTS = {
    "p_x": "*bf16:16", "p_up": "*bf16:16", "width": "i32:16", "stride": "i32:16", "stride_up": "i32:16", "cap": "fp32",
}  # fmt: skip
BACKWARD = {"p_grad": "*bf16:16", "p_grad_x": "*bf16:16", "p_grad_up": "*bf16:16", "stride_grad": "i32:16"}


def case(name: str, kind: str, *, is_gated: bool, more: dict[str, str]) -> Case:
    """One launch at the usual block."""
    return Case(
        name=f"{name} {kind}",
        kernel=f"pointwise.triton_activation:_{name}",
        arguments={**ARGUMENTS, **more},
        constexprs={"KIND": kind, "IS_GATED": is_gated, "BLOCK": BLOCK},
    )


CASES = (
    case("forward", "silu", is_gated=True, more={"p_out": "*bf16:16"}),
    case("forward", "softcap", is_gated=False, more={"p_out": "*bf16:16"}),
    case("backward", "gelu", is_gated=True, more=BACKWARD),
    case("backward", "softcap", is_gated=False, more=BACKWARD),
    case("backward", "softplus", is_gated=False, more=BACKWARD),
)
