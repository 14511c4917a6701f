"""Launches of the token shift that must compile for a GPU; the first one always."""

from __future__ import annotations

from .compile_for_gpu import Case

TENSORS = ("p_x", "p_last", "p_out", "p_kept")

CASES = (
    Case(
        name="token_shift",
        kernel="shift.triton_token_shift:_shift",
        arguments={
            **dict.fromkeys(TENSORS, "*bf16:16"), "p_order": "*i32:16", "p_count": "*i32:16",
            **dict.fromkeys(("tokens", "features", "x_row"), "i32:16"),
        },
        constexprs={"STEP": 1, "BLOCK_T": 16, "BLOCK_M": 256},
    ),
    Case(
        name="token_shift step",
        kernel="shift.triton_token_shift:_step",
        arguments={
            **dict.fromkeys(("p_x", "p_last", "p_out"), "*bf16:16"), "p_position": "*i64:16", "features": "i32:16",
            "x_row": "i32:16",
        },
        constexprs={"BLOCK_M": 256},
        num_warps=1,
    ),
)  # fmt: skip
