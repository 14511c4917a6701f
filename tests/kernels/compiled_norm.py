"""Launches of the norm kernels that must compile for a GPU; the first one always, the others in the long form."""

from __future__ import annotations

from llmc.kernels.norm.row_blocks import block_of
from llmc.kernels.norm.triton_rms_norm import WIDEST

from .compile_for_gpu import Case

TENSORS = {"p_x": "*bf16:16", "p_weight": "*bf16:16", "p_rstd": "*fp32:16"}
NUMBERS = {"width": "i32:16", "heads": "i32:1", "rows": "i32"}
FORWARD = {
    "p_delta": "*bf16:16", "p_out": "*bf16:16", "p_sum": "*bf16:16", "eps": "fp32", "per_token": "i32",
    "stride": "i32:16", "stride_delta": "i32:16",
}  # fmt: skip
BACKWARD = {"p_grad": "*bf16:16", "p_grad_sum": "*bf16:16", "p_grad_x": "*bf16:16", "p_grad_weight": "*fp32:16"}
CENTRED = {"p_mean": "*fp32:16", "divisor": "fp32"}


def rms_norm(width: int, rows: int) -> tuple[Case, Case]:
    """Forward with the sum, and backward, at one width."""
    held, block, warps = block_of(width, rows)
    _, _, alone = block_of(width, 1)
    forward = Case(
        name=f"add_rms_norm {width}x{rows}",
        kernel="norm.triton_rms_norm:_forward",
        arguments={**TENSORS, **NUMBERS, **FORWARD, "offset": "fp32"},
        constexprs={"HAS_DELTA": True, "HAS_WEIGHT": True, "HAS_OFFSET": False, "ROWS": held, "BLOCK": block},
        num_warps=warps,
    )
    backward = Case(
        name=f"rms_norm_backward {width}x{rows}",
        kernel="norm.triton_rms_norm:_backward",
        arguments={**TENSORS, **NUMBERS, **BACKWARD, "offset": "fp32"},
        constexprs={"HAS_SUM": True, "HAS_WEIGHT": True, "BLOCK": block, "ROWS": 8},
        num_warps=alone,
        spills=1200 if width == WIDEST else 0,
    )
    return forward, backward


def layer_norm(width: int, rows: int) -> tuple[Case, Case]:
    """Forward with the sum, and backward, at one width."""
    held, block, warps = block_of(width, rows)
    _, _, alone = block_of(width, 1)
    flags = {"CENTRE": True, "HAS_WEIGHT": True, "BLOCK": block}
    forward = Case(
        name=f"add_layer_norm {width}x{rows}",
        kernel="norm.triton_layer_norm:_forward",
        arguments={**TENSORS, **NUMBERS, **FORWARD, **CENTRED, "p_bias": "*bf16:16"},
        constexprs={**flags, "HAS_DELTA": True, "HAS_BIAS": True, "ROWS": held},
        num_warps=warps,
    )
    backward = Case(
        name=f"layer_norm_backward {width}x{rows}",
        kernel="norm.triton_layer_norm:_backward",
        arguments={**TENSORS, **NUMBERS, **BACKWARD, **CENTRED, "p_grad_bias": "*fp32:16"},
        constexprs={**flags, "HAS_SUM": True, "ROWS": 8},
        num_warps=alone,
        spills=3500 if width == WIDEST else 0,
    )
    return forward, backward


def quantised(width: int, rows: int) -> Case:
    """The sum, its norm and its whole numbers, at one width."""
    held, block, warps = block_of(width, rows)
    without = ("p_out", "per_token")
    return Case(
        name=f"add_rms_norm_quantised {width}x{rows}",
        kernel="norm.triton_quantise:_forward",
        arguments={
            **{name: kind for name, kind in FORWARD.items() if name not in without},
            "p_x": "*bf16:16", "p_weight": "*bf16:16", "p_whole": "*i8:16", "p_factor": "*fp32:16",
            "p_count": "*i32:16", "rows": "i32", "width": "i32:16", "padded": "i32:16", "offset": "fp32",
        },
        constexprs={
            "HAS_NORM": True, "HAS_DELTA": True, "HAS_WEIGHT": True, "HAS_OFFSET": False, "LARGEST": 127, "ROWS": held,
            "BLOCK": block,
        },
        num_warps=warps,
    )  # fmt: skip


SIZES = ((4096, 1), (128, 4096), (WIDEST, 1))
CASES = (
    *(case for width, rows in SIZES for case in (*rms_norm(width, rows), *layer_norm(width, rows))),
    quantised(4096, 1),
    quantised(512, 4096),
)
