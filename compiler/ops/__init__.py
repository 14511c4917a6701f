"""The ops of the language. To add one: write its file, and name it in `OPS`."""

from __future__ import annotations

from collections.abc import Mapping

from .arithmetic import CLAMP, DIV, LERP, REDUCE, SUB, TOPK_SPARSITY
from .attention import ATTEND_CACHED, ATTENTION, KV_FULL_APPEND, KV_WINDOW_APPEND
from .conv import SHORT_CONV
from .declaration import Op
from .embedding import EMBEDDING
from .features import MIX_STREAMS, RESHAPE, SLICE, SPLIT_HEADS, TILE
from .group_norm import GROUP_NORM, L2_NORM
from .latent_attention import KV_LATENT_APPEND, LATENT_ATTEND_CACHED, LATENT_ATTENTION
from .layout import CONCAT, POOL, SINUSOIDAL, SPLIT, WATCH
from .linear import LINEAR
from .moe import EXPERTS, ROUTER, ROUTER_LOSS
from .norm import ADD_LAYER_NORM, ADD_RMS_NORM, LAYER_NORM, RMS_NORM
from .parameter import PARAMETER
from .pointwise import (
    ACTIVATION,
    ADD,
    DROPOUT,
    GATED_ACTIVATION,
    GATED_ACTIVATION_PACKED,
    MUL,
    SCALE,
    SOFTCAP,
    ZEROS_LIKE,
)
from .relative_bias import RELATIVE_BIAS
from .rope import ROPE, ROPE_APPLY, ROPE_TABLE
from .scan import SCAN
from .shift import TOKEN_SHIFT
from .ternary import TERNARY_LINEAR

OPS: tuple[Op, ...] = (
    EMBEDDING,
    LINEAR,
    RMS_NORM,
    LAYER_NORM,
    ROPE,
    ATTENTION,
    ACTIVATION,
    ADD,
    MUL,
    SCALE,
    SOFTCAP,
    DROPOUT,
    SPLIT,
    CONCAT,
    POOL,
    SINUSOIDAL,
    PARAMETER,
    LATENT_ATTENTION,
    RELATIVE_BIAS,
    SCAN,
    SHORT_CONV,
    TOKEN_SHIFT,
    ROUTER,
    EXPERTS,
    ROUTER_LOSS,
    WATCH,
    TERNARY_LINEAR,
    GROUP_NORM,
    L2_NORM,
    SUB,
    DIV,
    LERP,
    CLAMP,
    REDUCE,
    TOPK_SPARSITY,
    SPLIT_HEADS,
    SLICE,
    TILE,
    RESHAPE,
    MIX_STREAMS,
    # created by passes only
    ADD_RMS_NORM,
    ADD_LAYER_NORM,
    GATED_ACTIVATION,
    GATED_ACTIVATION_PACKED,
    ROPE_TABLE,
    ROPE_APPLY,
    KV_FULL_APPEND,
    KV_WINDOW_APPEND,
    ATTEND_CACHED,
    KV_LATENT_APPEND,
    LATENT_ATTEND_CACHED,
    ZEROS_LIKE,
)

OP_INDEX: Mapping[str, Op] = {op.name: op for op in OPS}
