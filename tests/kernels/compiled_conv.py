"""Launches of the short convolution that must compile for a GPU; the first always, others in the long form."""

from __future__ import annotations

from .compile_for_gpu import Case

TENSORS = {"p_x": "*bf16:16", "p_weight": "*bf16:16", "p_bias": "*bf16:16"}
ORDER = {"p_order": "*i32:16", "p_count": "*i32:16"}
SIZES = {"tokens": "i32:16", "channels": "i32:16", "x_row": "i32:16"}
BLOCKS = {"TAPS": 4, "BLOCK_T": 16, "BLOCK_C": 128}

CASES = (
    Case(
        name="short_conv step",
        kernel="conv.triton_short_conv:_step",
        arguments={
            **TENSORS, "p_position": "*i64:16", "p_tail": "*bf16:16", "p_out": "*bf16:16", "channels": "i32:16",
            "x_row": "i32:16",
        },
        constexprs={"TAPS": 4, "KIND": "silu", "BLOCK_C": 128},
        num_warps=1,
    ),
    Case(
        name="short_conv",
        kernel="conv.triton_short_conv:_forward",
        arguments={
            **TENSORS, **ORDER, **SIZES, "p_tail": "*bf16:16", "p_out": "*bf16:16", "p_kept": "*bf16:16",
        },
        constexprs={**BLOCKS, "KIND": "silu"},
    ),
    Case(
        name="short_conv slopes",
        kernel="conv.triton_short_conv:_slopes",
        arguments={
            **TENSORS, **ORDER, **SIZES, "p_grad": "*bf16:16", "p_inner": "*bf16:16", "p_grad_weight": "*fp32:16",
            "p_grad_bias": "*fp32:16",
        },
        constexprs={**BLOCKS, "KIND": "silu"},
    ),
    Case(
        name="short_conv transposed",
        kernel="conv.triton_short_conv:_transposed",
        arguments={
            **ORDER, "p_inner": "*bf16:16", "p_weight": "*bf16:16", "p_grad_x": "*bf16:16", "tokens": "i32:16",
            "channels": "i32:16",
        },
        constexprs=BLOCKS,
    ),
)  # fmt: skip
