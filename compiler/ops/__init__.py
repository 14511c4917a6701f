"""The ops of the language. To add one: write its file, and name it in `OPS`."""

from __future__ import annotations

from collections.abc import Mapping

from .attention import ATTEND_CACHED, ATTENTION, KV_FULL_APPEND, KV_WINDOW_APPEND
from .declaration import Op
from .embedding import EMBEDDING
from .layout import CONCAT, POOL, SINUSOIDAL, SPLIT
from .linear import LINEAR
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
from .rope import ROPE, ROPE_APPLY, ROPE_TABLE

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
    ZEROS_LIKE,
)

OP_INDEX: Mapping[str, Op] = {op.name: op for op in OPS}
