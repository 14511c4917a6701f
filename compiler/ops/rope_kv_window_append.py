"""Rotate keys and append them to a cache that keeps those of a window."""

from __future__ import annotations

from dataclasses import replace

from .kv_window_append import KV_WINDOW_APPEND
from .rope_kv_full_append import ROPE_KV_FULL_APPEND

ROPE_KV_WINDOW_APPEND = replace(
    ROPE_KV_FULL_APPEND,
    name="rope_kv_window_append",
    fields=(*KV_WINDOW_APPEND.fields, *ROPE_KV_FULL_APPEND.fields[-2:]),
    operands=(*KV_WINDOW_APPEND.operands, "rotary_dim", "layout"),
    reference="cache:rope_kv_window_append",
)
