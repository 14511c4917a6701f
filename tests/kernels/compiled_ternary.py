"""Launches of the ternary kernels that must compile for a GPU; the first one always, the others in the long form."""

from __future__ import annotations

from llmc.kernels.gpu.sizes import power_of_2
from llmc.kernels.ternary.triton_vector import VECTOR

from .compile_for_gpu import Case

PRODUCT = {
    "p_scale": "*fp32:16", "p_factor": "*fp32:16", "p_count": "*i32:16", "p_bias": "None",
    "p_out": "*bf16:16", "rows": "i32:16",
}  # fmt: skip


def _vector(width: int, outputs: int, kind: str) -> Case:
    """As the rule launches it, after a sum and a norm."""
    words = width // 16
    config = VECTOR.rule({"outputs": outputs, "words": words, "is_gated": int(kind != "")})
    return Case(
        name=f"ternary_vector {width} to {outputs} {kind}",
        kernel="ternary.triton_vector:_vector",
        arguments={
            "p_x": "*bf16:16", "p_delta": "*bf16:16", "p_norm": "*bf16:16", "p_weight": "*i32:16",
            "p_scale": "*fp32:16", "p_bias": "None", "p_out": "*bf16:16", "p_sum": "*bf16:16", "width": "i32:16",
            "words": "i32:16" if words % 16 == 0 else "i32", "outputs": "i32:16", "stride": "i32:16",
            "stride_delta": "i32:16", "eps": "fp32", "offset": "fp32",
        },
        constexprs={
            "HAS_NORM": True, "HAS_DELTA": True, "HAS_WEIGHT": True, "HAS_OFFSET": False, "HAS_BIAS": False,
            "KIND": kind, "LARGEST": 127, "WORDS": power_of_2(words), "BLOCK_OUT": config["BLOCK_OUT"],
            "TILES": config["TILES"],
        },
        num_warps=config["num_warps"],
    )  # fmt: skip


def _matrix(block_m: int, block_n: int, block_k: int, warps: int, stages: int, architecture: str = "sm_90") -> Case:
    return Case(
        name=f"ternary_matrix {block_m}x{block_n}x{block_k} {architecture}",
        architecture=architecture,
        kernel="ternary.triton_ternary:_matrix",
        arguments={**PRODUCT, "p_x": "*i8:16", "p_weight": "*u8:16", "tokens": "i32", "size": "i32:16"},
        constexprs={"HAS_BIAS": False, "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP": 8},
        num_warps=warps,
        num_stages=stages,
    )


CASES = (
    _vector(2560, 3840, ""),
    _vector(2560, 6912, "relu2"),
    _vector(6912, 2560, ""),
    _vector(4096, 28672, ""),
    _vector(16384, 8192, "relu2"),
    _matrix(128, 128, 64, 8, 3),
    _matrix(128, 128, 64, 8, 2, "sm_86"),
    _matrix(16, 64, 128, 4, 4),
)
