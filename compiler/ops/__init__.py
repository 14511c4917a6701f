"""The ops of the language. To add one: write its file, and name it in `OPS`."""

from __future__ import annotations

from collections.abc import Mapping

from .activation import ACTIVATION
from .add import ADD
from .add_layer_norm import ADD_LAYER_NORM
from .add_rms_norm import ADD_RMS_NORM
from .add_rms_norm_linear import ADD_RMS_NORM_LINEAR
from .add_rms_norm_ternary_projection import ADD_RMS_NORM_TERNARY_PROJECTION
from .append_attend import APPEND_ATTEND
from .attend_cached import ATTEND_CACHED
from .attend_shared import ATTEND_SHARED
from .attention import ATTENTION
from .clamp import CLAMP
from .concat import CONCAT
from .cross_kv_append import CROSS_KV_APPEND
from .cross_kv_read import CROSS_KV_READ
from .declaration import Op
from .div import DIV
from .dropout import DROPOUT
from .embedding import EMBEDDING
from .experts import EXPERTS
from .gated_activation import GATED_ACTIVATION
from .gated_activation_packed import GATED_ACTIVATION_PACKED
from .gated_linear import GATED_LINEAR
from .geometric import GEOMETRIC
from .group_norm import GROUP_NORM
from .kv_full_append import KV_FULL_APPEND
from .kv_latent_append import KV_LATENT_APPEND
from .kv_window_append import KV_WINDOW_APPEND
from .l2_norm import L2_NORM
from .latent_attend_cached import LATENT_ATTEND_CACHED
from .latent_attention import LATENT_ATTENTION
from .layer_norm import LAYER_NORM
from .lerp import LERP
from .linear import LINEAR
from .linear_cross_entropy import LINEAR_CROSS_ENTROPY
from .mask_plan import MASK_PLAN
from .mix_streams import MIX_STREAMS
from .mul import MUL
from .parameter import PARAMETER
from .pool import POOL
from .position_scale import POSITION_SCALE
from .reduce import REDUCE
from .relative_bias import RELATIVE_BIAS
from .reshape import RESHAPE
from .rms_norm import RMS_NORM
from .rms_norm_linear import RMS_NORM_LINEAR
from .rms_norm_ternary_projection import RMS_NORM_TERNARY_PROJECTION
from .rope import ROPE
from .rope_apply import ROPE_APPLY
from .rope_kv_full_append import ROPE_KV_FULL_APPEND
from .rope_kv_window_append import ROPE_KV_WINDOW_APPEND
from .rope_table import ROPE_TABLE
from .router import ROUTER
from .router_loss import ROUTER_LOSS
from .scale import SCALE
from .scan import SCAN
from .shared_keys import SHARED_KEYS
from .short_conv import SHORT_CONV
from .sinusoidal import SINUSOIDAL
from .slice import SLICE
from .softcap import SOFTCAP
from .split import SPLIT
from .split_heads import SPLIT_HEADS
from .sub import SUB
from .sum import SUM
from .ternary_linear import TERNARY_LINEAR
from .ternary_projection import TERNARY_PROJECTION
from .tile import TILE
from .token_shift import TOKEN_SHIFT
from .topk_sparsity import TOPK_SPARSITY
from .watch import WATCH
from .zeros_like import ZEROS_LIKE

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
    GEOMETRIC,
    POSITION_SCALE,
    SUM,
    # created from cache:
    SHARED_KEYS,
    ATTEND_SHARED,
    # created by passes only
    ADD_RMS_NORM,
    ADD_LAYER_NORM,
    GATED_ACTIVATION,
    GATED_ACTIVATION_PACKED,
    GATED_LINEAR,
    RMS_NORM_LINEAR,
    ADD_RMS_NORM_LINEAR,
    TERNARY_PROJECTION,
    RMS_NORM_TERNARY_PROJECTION,
    ADD_RMS_NORM_TERNARY_PROJECTION,
    ROPE_TABLE,
    ROPE_APPLY,
    ROPE_KV_FULL_APPEND,
    ROPE_KV_WINDOW_APPEND,
    KV_FULL_APPEND,
    KV_WINDOW_APPEND,
    CROSS_KV_APPEND,
    CROSS_KV_READ,
    ATTEND_CACHED,
    APPEND_ATTEND,
    KV_LATENT_APPEND,
    LATENT_ATTEND_CACHED,
    ZEROS_LIKE,
    LINEAR_CROSS_ENTROPY,
    MASK_PLAN,
)

OP_INDEX: Mapping[str, Op] = {op.name: op for op in OPS}
