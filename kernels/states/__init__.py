"""The kinds of state that ops keep between tokens, by name.

One file a kind, one line here. Kinds with constant size (convolution tails, matrices of linear attention) roll back by
snapshot, and latent keys grow like `kv_full`; all of them are described by the same `StateKind`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .conv import CONV
from .cross_kv import CROSS_KV
from .kv_full import KV_FULL
from .kv_latent import KV_LATENT
from .kv_window import KV_WINDOW
from .matrix import MATRIX
from .protocol import StateKind
from .token_shift import TOKEN_SHIFT

STATES: Mapping[str, StateKind] = MappingProxyType(
    {kind.name: kind for kind in (KV_FULL, KV_WINDOW, KV_LATENT, CROSS_KV, CONV, MATRIX, TOKEN_SHIFT)}
)
