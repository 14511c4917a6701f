"""Launches of the norm kernels that must compile for a GPU; the first one always, the others in the long form."""

from __future__ import annotations

from .compile_for_gpu import Case

ROWS = {"p_x": "*bf16:16", "p_weight": "*bf16:16", "p_rstd": "*fp32:16"}
NUMBERS = {"width": "i32:16", "heads": "i32:1", "offset": "fp32"}

CASES = tuple(
    case
    for width, warps in ((4096, 8), (32768, 16))
    for case in (
        Case(
            name=f"rms_norm {width}",
            kernel="norm.triton_rms_norm:_forward",
            arguments={**ROWS, **NUMBERS, "p_out": "*bf16:16", "eps": "fp32"},
            constexprs={"HAS_WEIGHT": True, "HAS_OFFSET": False, "BLOCK": width},
            num_warps=warps,
        ),
        Case(
            name=f"rms_norm_backward {width}",
            kernel="norm.triton_rms_norm:_backward",
            arguments={
                **ROWS, **NUMBERS, "p_grad": "*bf16:16", "p_grad_x": "*bf16:16", "p_grad_weight": "*fp32:16",
                "rows": "i32",
            },
            constexprs={"HAS_WEIGHT": True, "BLOCK": width, "ROWS": 8},
            num_warps=warps,
            spills=2200 if width == 32768 else 0,
        ),
    )
)  # fmt: skip
