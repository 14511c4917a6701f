"""Launches of packed linear layers that must compile for a GPU; the first one always, the others in the long form."""

from __future__ import annotations

from .compile_for_gpu import Case

SIZES = {"width": "i32:16", "rows": "i32:16", "size": "i32:16"}
INT8 = {"p_x": "*bf16:16", "p_weight": "*i8:16", "p_scale": "*fp32:16", "p_bias": "None", "p_out": "*bf16:16", **SIZES}
INT4 = {**INT8, "p_weight": "*u8:16", "p_scale": "*fp16:16"}

CASES = (
    Case(
        name="int8_vector",
        kernel="linear.triton_int8:_vector",
        arguments=INT8,
        constexprs={"HAS_BIAS": False, "BLOCK_OUT": 4, "BLOCK_IN": 1024},
    ),
    *(
        Case(
            name=f"int8_matrix {block_m}x{block_n}",
            kernel="linear.triton_int8:_matrix",
            arguments={**INT8, "tokens": "i32"},
            constexprs={"HAS_BIAS": False, "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP": 8},
            num_warps=warps,
            num_stages=4,
        )
        for block_m, block_n, block_k, warps in ((128, 128, 64, 8), (16, 64, 128, 4))
    ),
    *(
        case
        for group in (32, 128)
        for case in (
            Case(
                name=f"int4_vector {group}",
                kernel="linear.triton_int4:_vector",
                arguments=INT4,
                constexprs={"HAS_BIAS": False, "G": group, "BLOCK_OUT": 4, "BLOCK_IN": 512 // group},
            ),
            *(
                Case(
                    name=f"int4_matrix {group} {block_m}x{block_n}",
                    kernel="linear.triton_int4:_matrix",
                    arguments={**INT4, "tokens": "i32"},
                    constexprs={"HAS_BIAS": False, "G": group, "BLOCK_M": block_m, "BLOCK_N": block_n, "GROUP": 8},
                    num_warps=warps,
                    num_stages=stages,
                    may_wait=group == 128 and block_m == 128,
                )
                for block_m, block_n, warps, stages in ((128, 128, 8, 4 if group == 32 else 2), (16, 64, 4, 4))
            ),
        )
    ),
)
