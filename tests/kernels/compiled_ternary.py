"""Launches of the ternary kernels that must compile for a GPU; the first one always, the others in the long form."""

from __future__ import annotations

from .compile_for_gpu import Case

PRODUCT = {
    "p_scale": "*fp32:16", "p_factor": "*fp32:16", "p_count": "*i32:16", "p_bias": "None",
    "p_out": "*bf16:16", "rows": "i32:16",
}  # fmt: skip


def _matrix(block_m: int, block_n: int, block_k: int, warps: int, stages: int) -> Case:
    return Case(
        name=f"ternary_matrix {block_m}x{block_n}x{block_k}",
        kernel="ternary.triton_ternary:_matrix",
        arguments={**PRODUCT, "p_x": "*i8:16", "p_weight": "*u8:16", "tokens": "i32", "size": "i32:16"},
        constexprs={"HAS_BIAS": False, "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP": 8},
        num_warps=warps,
        num_stages=stages,
    )


CASES = (
    Case(
        name="ternary_vector",
        kernel="ternary.triton_ternary:_vector",
        arguments={**PRODUCT, "p_x": "*i32:16", "p_weight": "*i32:16", "words": "i32:16"},
        constexprs={"HAS_BIAS": False, "BLOCK_OUT": 8, "BLOCK_IN": 256},
    ),
    _matrix(128, 128, 64, 8, 3),
    _matrix(16, 64, 128, 4, 4),
)
