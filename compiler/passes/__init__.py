"""The passes, in the order they run: the compiler's second table of contents."""

from __future__ import annotations

from collections.abc import Callable

from ..lowered import Module
from .drop_dropout import drop_dropout
from .eliminate_dead import eliminate_dead
from .eliminate_unread import eliminate_unread
from .fuse_add_norm import fuse_add_norm
from .fuse_append_attend import fuse_append_attend
from .fuse_gated_activation import fuse_gated_activation
from .fuse_norm_linear import fuse_norm_linear
from .fuse_norm_ternary import fuse_norm_ternary
from .fuse_projections import fuse_projections
from .fuse_rope_append import fuse_rope_append
from .fuse_ternary_projections import fuse_ternary_projections
from .hoist_once import hoist_once
from .rotate_residual import rotate_residual
from .share_mask_plans import share_mask_plans
from .share_rope_table import share_rope_table

Pass = Callable[[Module], int]

PASSES: tuple[Pass, ...] = (
    drop_dropout,
    eliminate_unread,
    hoist_once,
    fuse_projections,
    fuse_gated_activation,
    rotate_residual,
    fuse_add_norm,
    share_rope_table,
    eliminate_dead,
)

GPU_PASSES: tuple[Pass, ...] = (
    fuse_rope_append,
    fuse_append_attend,
    fuse_norm_linear,
    fuse_ternary_projections,
    fuse_norm_ternary,
    share_mask_plans,
)
"""Those that follow where the target is a GPU."""
