"""Append to a cache that keeps the keys and values of a window."""

from __future__ import annotations

from dataclasses import replace

from .appends import size_fields
from .kv_full_append import KV_FULL_APPEND

KV_WINDOW_APPEND = replace(
    KV_FULL_APPEND,
    name="kv_window_append",
    fields=size_fields("heads", "key_dim", "value_dim", "window"),
    operands=("heads", "key_dim", "value_dim", "window"),
    reference="cache:kv_window_append",
)
