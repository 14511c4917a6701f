"""Launches of a beam search's kernels that must compile for a GPU: four beams of a vocabulary of 128k."""

from __future__ import annotations

from llmc.kernels.cache.triton_rows import BLOCK, SPLIT
from llmc.kernels.gpu.sizes import ceil_div, power_of_2
from llmc.kernels.sampling.triton_beams import CHUNK

from .compile_for_gpu import Case

SIZE, BEAMS = 128256, 4
WIDTH = 2 * BEAMS
CHUNKS = ceil_div(SIZE, CHUNK)
SCANNED = {"size": "i32:16", "stride": "i32:16", "chunks": "i32"}
FLOATS = ("p_value", "p_rule", "p_score", "p_kept_score")
WHOLE = (
    "p_token", "p_ends", "p_length", "p_step", "p_row", "p_common", "p_kept_step", "p_kept_parent", "p_kept_token",
    "p_next", "p_source", "p_first", "p_chosen", "p_parent",
)  # fmt: skip
ORDER = (
    "p_value", "p_token", "p_rule", "p_ends", "p_length", "p_step", "p_score", "p_row", "p_common", "p_kept_score",
    "p_kept_step", "p_kept_parent", "p_kept_token", "p_open", "p_broken", "p_next", "p_source", "p_first", "p_chosen",
    "p_parent",
)  # fmt: skip
TYPES = {
    **dict.fromkeys(FLOATS, "*fp32:16"), **dict.fromkeys(WHOLE, "*i64:16"),
    **dict.fromkeys(("p_open", "p_broken"), "*i1:16"),
}  # fmt: skip

CASES = (
    Case(
        name="advance", kernel="sampling.triton_beams:_advance", arguments={name: TYPES[name] for name in ORDER},
        constexprs={
            "BEAMS": BEAMS, "WIDTH": WIDTH, "ENDS": 16, "BLOCK_K": BEAMS, "BLOCK_M": WIDTH, "BLOCK_C": BEAMS * WIDTH,
        },
        num_warps=1,
    ),
    Case(
        name="sum of a chunk", kernel="sampling.triton_beams:_sum_chunk",
        arguments={**dict.fromkeys(("p_logits", "p_largest", "p_sums"), "*fp32:16"), **SCANNED},
        constexprs={"BLOCK": CHUNK}, num_warps=8,
    ),
    Case(
        name="best of a chunk", kernel="sampling.triton_beams:_best_of_chunk",
        arguments={
            **dict.fromkeys(("p_logits", "p_largest", "p_sums", "p_score", "p_penalty"), "*fp32:16"),
            "p_seen": "*u8:16", "p_banned": "*i64:16", "p_found": "*i64:16", **SCANNED, "count": "i32",
        },
        constexprs={"HAS_SEEN": True, "BANNED": 16, "CHUNKS": power_of_2(CHUNKS), "BLOCK": CHUNK}, num_warps=8,
    ),
    Case(
        name="best of a row", kernel="sampling.triton_beams:_best_of_row",
        arguments={"p_found": "*i64:16", "p_value": "*fp32:16", "p_token": "*i64:16", "size": "i32", "count": "i32"},
        constexprs={"BLOCK": power_of_2(CHUNKS * WIDTH)},
    ),
    Case(
        name="rows", kernel="cache.triton_rows:_copy",
        arguments=dict.fromkeys(("p_table", "p_source", "p_first", "p_length"), "*i64:16"),
        constexprs={"UNIT": 8, "SPLIT": SPLIT, "BLOCK": BLOCK},
    ),
)  # fmt: skip
