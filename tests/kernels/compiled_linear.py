"""Launches of the products of few tokens that must compile for a GPU."""

from __future__ import annotations

import torch

from llmc.kernels.linear.triton_gemv import FEW_ROWS, ONE_ROW, PADDED_ROWS, tuning_key
from llmc.kernels.linear.triton_norm_gemv import NORMED_ROW

from .compile_for_gpu import Case

ARGUMENTS = {
    "p_x": "*bf16:16", "p_weight": "*bf16:16", "p_out": "*bf16:16", "size_in": "i32:16", "size_out": "i32:16",
    "stride": "i32:16",
}  # fmt: skip


def one_row(size_in: int, size_out: int, kind: str) -> Case:
    """One token, with the rule's blocks."""
    config = dict(ONE_ROW.rule(tuning_key(size_in, size_out, torch.bfloat16, is_gated=kind != "")))
    return Case(
        name=f"one_row {size_out}x{size_in} {kind}",
        kernel="linear.triton_gemv:_one_row",
        arguments={**ARGUMENTS, "p_bias": "None"},
        num_warps=config.pop("num_warps"),
        constexprs={"HAS_BIAS": False, "KIND": kind, **config},
    )


def few_rows(size_in: int, size_out: int, kind: str) -> Case:
    """Eight tokens, with the rule's blocks."""
    config = dict(FEW_ROWS.rule(tuning_key(size_in, size_out, torch.bfloat16, is_gated=kind != "")))
    return Case(
        name=f"few_rows {size_out}x{size_in} {kind}",
        kernel="linear.triton_gemv:_few_rows",
        arguments={**ARGUMENTS, "p_bias": "*bf16:16", "rows": "i32", "stride_x": "i32:16"},
        num_warps=config.pop("num_warps"),
        num_stages=config.pop("num_stages"),
        constexprs={"HAS_BIAS": True, "KIND": kind, "ROWS": PADDED_ROWS, **config},
    )


def normed_row(size_in: int, size_out: int, kind: str) -> Case:
    """One token with the sum and the norm before, with the rule's blocks."""
    config = dict(NORMED_ROW.rule(tuning_key(size_in, size_out, torch.bfloat16, is_gated=kind != "")))
    return Case(
        name=f"normed_row {size_out}x{size_in} {kind}",
        kernel="linear.triton_norm_gemv:_one_row",
        arguments={
            **ARGUMENTS, "p_bias": "None", "p_delta": "*bf16:16", "p_norm": "*bf16:16", "p_sum": "*bf16:16",
            "eps": "fp32", "offset": "fp32",
        },
        num_warps=config.pop("num_warps"),
        constexprs={"HAS_BIAS": False, "HAS_DELTA": True, "HAS_NORM": True, "KIND": kind, **config},
    )  # fmt: skip


CASES = (
    one_row(4096, 14336, "silu"),
    one_row(4096, 6144, ""),
    one_row(8192, 2048, ""),
    one_row(4096, 14336, "gelu_tanh"),
    few_rows(4096, 6144, ""),
    few_rows(4096, 14336, "silu"),
    few_rows(4096, 128256, ""),
    normed_row(4096, 6144, ""),
    normed_row(4096, 14336, "silu"),
)
