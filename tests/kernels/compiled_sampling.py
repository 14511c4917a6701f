"""Launches of the sampling kernels that must compile for a GPU."""

from __future__ import annotations

from llmc.kernels.gpu.sizes import ceil_div, power_of_2
from llmc.kernels.sampling.triton_sample import PICK, tuning_key

from .compile_for_gpu import Case

ROWS = {
    name: "*fp32:16"
    for name in ("p_temperature", "p_top_p", "p_min_p", "p_repetition", "p_presence", "p_frequency", "p_scores",
                 "p_near", "p_largest")
}  # fmt: skip
WHOLE = {"p_top_k": "*i32:16", "p_seen": "*i32:16", "p_ids": "*i32:16", "p_likeliest": "*i32:16"}
LONG = {"p_seed": "*i64:16", "p_step": "*i64:16", "p_tokens": "*i64:16"}
EVERY = {**ROWS, **WHOLE, **LONG, "p_logits": "*bf16:16", "size": "i32:16", "stride": "i32:16", "chunks": "i32"}


def cases(size: int) -> tuple[Case, Case]:
    """Both launches for a vocabulary."""
    config = dict(PICK.rule(tuning_key(size)))
    chunk = config.pop("CHUNK")
    first = ("p_logits", "p_seen", "p_repetition", "p_presence", "p_frequency", "p_scores", "p_largest", "p_likeliest")
    second = tuple(
        name for name in EVERY if name not in ("p_logits", "p_repetition", "p_presence", "p_frequency", "stride")
    )
    penalise = Case(
        name=f"penalise {size}",
        kernel="sampling.triton_sample:_penalise",
        arguments={name: EVERY[name] for name in (*first, "size", "stride", "chunks")},
        constexprs={"HAS_SEEN": True, "BLOCK": chunk},
        num_warps=max(1, chunk // 512),
    )
    pick = Case(
        name=f"pick {size}",
        kernel="sampling.triton_sample:_pick",
        arguments={name: EVERY[name] for name in second},
        num_warps=config.pop("num_warps"),
        constexprs={"HAS_SEEN": True, "CHUNKS": power_of_2(ceil_div(size, chunk)), **config},
    )
    return penalise, pick


CASES = (*cases(128256), cases(262144)[1])
