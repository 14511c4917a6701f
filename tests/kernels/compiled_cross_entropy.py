"""Launches of the loss that must compile for a GPU."""

from __future__ import annotations

from llmc.kernels.cross_entropy.triton_cross_entropy import BLOCK

from .compile_for_gpu import Case

CASES = (
    Case(
        name="cross_entropy",
        kernel="cross_entropy.triton_cross_entropy:_token_loss",
        arguments={
            "p_logits": "*bf16:16", "p_target": "*i64", "p_loss": "*fp32", "size": "i32:16", "ignored": "i32",
            "cap": "fp32", "smoothing": "fp32", "z_loss": "fp32",
        },
        constexprs={"HAS_CAP": True, "HAS_GRADIENT": True, "BLOCK": BLOCK},
        num_warps=8,
    ),
)  # fmt: skip
