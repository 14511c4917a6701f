"""Rotate keys and append them to a cache that keeps all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .declaration import Fields, Inputs, Port, TensorType
from .kv_full_append import KV_FULL_APPEND
from .rope_apply import ROPE_APPLY


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    turned = {"q": inputs["q"]} if "q" in inputs else {}
    return {**KV_FULL_APPEND.infer(fields, inputs), **turned}


ROPE_KV_FULL_APPEND = replace(
    KV_FULL_APPEND,
    name="rope_kv_full_append",
    summary="Rotate new keys by a table, and write them and their values into the cache; rotate queries beside them",
    ports=(
        *KV_FULL_APPEND.ports,
        Port(name="table", doc="[B, T, rotary_dim] float32"),
        Port(name="q", doc="[B, T, H*D], rotated as the keys are", is_optional=True),
    ),
    outputs=(*KV_FULL_APPEND.outputs, "q"),
    infer=_infer,
    fields=(*KV_FULL_APPEND.fields, *(ROPE_APPLY.field_index[name] for name in ("rotary_dim", "layout"))),
    operands=(*KV_FULL_APPEND.operands, "rotary_dim", "layout"),
    reference="cache:rope_kv_full_append",
)
