"""Launches of the lookup that must compile for a GPU."""

from __future__ import annotations

from llmc.kernels.embedding.triton_embedding import BLOCK

from .compile_for_gpu import Case

CASES = (
    Case(
        name="embedding",
        kernel="embedding.triton_embedding:_look_up",
        arguments={
            "p_ids": "*i64:16", "p_table": "*bf16:16", "p_out": "*bf16:16", "width": "i32:16", "stride": "i32:16",
            "offset": "i32", "scale": "fp32",
        },
        constexprs={"HAS_SCALE": True, "BLOCK": BLOCK},
    ),
)  # fmt: skip
