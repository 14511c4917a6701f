"""Which weights of attention a training step leaves out, in Triton: the same mask as `dropout.kept`.

Each pair has a number of its own, so that no pass needs another's blocks, order or launch. It costs a Philox of 10
rounds a pair and pass, some 60 whole-number instructions: beside two products of 64 numbers a pair on tensor cores that
is what bounds the step, several times over. A step without dropout pays nothing.
"""

# pyright: basic, reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def kept(seed, drop, i_batch, i_head, o_query, o_key):
    """`dropout.kept` of places that broadcast to a tile."""
    b_zero = (o_query + o_key).to(tl.int32) * 0
    b_word, _, _, _ = tl.philox(
        seed, b_zero + o_key.to(tl.int32), b_zero + o_query.to(tl.int32), b_zero + i_head.to(tl.int32),
        b_zero + i_batch.to(tl.int32),
    )  # fmt: skip
    return (b_word >> 8).to(tl.int32) >= drop


@triton.jit
def kept_factor(drop):
    """What weights that stay are multiplied by, so that their sum is expected to stay."""
    return 16777216.0 / tl.maximum(16777216 - drop, 1).to(tl.float32)
