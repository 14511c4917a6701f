"""Append to a cache that keeps one latent and one rotated key part per token."""

from __future__ import annotations

from collections.abc import Mapping

from .appends import appended, size_fields
from .declaration import Fields, Inputs, Op, Port, TensorType


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    parts = {"latents": (1, fields.int("rank")), "k_ropes": (1, fields.int("rope_dim"))}
    return appended(inputs["latent"].shape[0], **parts)


KV_LATENT_APPEND = Op(
    name="kv_latent_append",
    summary="Write new latents and rotated key parts into the cache; yields its successor and all that may be read",
    ports=(Port(name="latent", doc="[B, T, R]"), Port(name="k_rope", doc="[B, T, Dr]")),
    fields=size_fields("rank", "rope_dim"),
    outputs=("state", "latents", "k_ropes", "key_position"),
    infer=_infer,
    operands=("rank", "rope_dim"),
    ambient=("position", "lengths"),
    is_internal=True,
    is_tokenwise=False,
    reference="latent_attention:kv_latent_append",
)
