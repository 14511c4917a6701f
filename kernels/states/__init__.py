"""The kinds of state that ops keep between tokens, by name.

One file a kind, one line here. Kinds with constant size (convolution tails, matrices of linear attention) roll back by
snapshot, and latent keys grow like `kv_full`; all of them are described by the same `StateKind`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .kv_full import KV_FULL
from .kv_window import KV_WINDOW
from .protocol import StateKind

STATES: Mapping[str, StateKind] = MappingProxyType({kind.name: kind for kind in (KV_FULL, KV_WINDOW)})
