"""One latent and one rotated key part of every token, shared by all heads."""

from __future__ import annotations

from .protocol import Sizes, Slot, StateKind


def _slots(sizes: Sizes, capacity: int) -> tuple[Slot, ...]:
    return (
        Slot(name="latents", shape=(1, capacity, sizes["rank"])),
        Slot(name="k_ropes", shape=(1, capacity, sizes["rope_dim"])),
    )


KV_LATENT = StateKind(
    name="kv_latent",
    doc="The latent that all heads' keys and values are made of, and their shared rotated part; token p in slot p.",
    size_names=("rank", "rope_dim"),
    slots=_slots,
    rollback="truncate",
    reorder="tokens",
    prefix_share="page",
    append="latent_attention:kv_latent_append",
)
