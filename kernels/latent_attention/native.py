"""Latent attention in C: appends latents to their cache and attends over it."""

from __future__ import annotations

from ..linear.native import FORMATS
from ..native.node import CacheView, NativeNode, NotNative, fields_of
from .fields import Latent


def append(node: NativeNode) -> None:
    """`kv_latent_append`: a view; the attention that reads it stores the new rows."""
    view = CacheView(state=node.state(), new=(node.input("latent"), node.input("k_rope")))
    for port in ("latents", "k_ropes", "key_position"):
        node.alias(port, view)


def latent_attend_cached(node: NativeNode) -> None:
    """`reference.latent_attend_cached`."""
    view, q_nope, q_rope, up = node.view("latents"), node.input("q_nope"), node.input("q_rope"), node.weight("kv_up")
    if up.format not in ("float32", "bfloat16", "float16"):
        raise NotNative(f"an up-projection in {up.format} is not absorbed in C")
    given = fields_of(node, Latent)
    nope_dim, rope_dim = given.nope_head_dim, given.rope_head_dim
    heads, rank, out = q_nope.width // nope_dim, up.shape[1], node.output()
    scale = node.number("scale") if given.scale is not None else repr((nope_dim + rope_dim) ** -0.5)
    values: dict[str, object] = {
        "batch": "pass->batch",
        "tokens": "pass->tokens",
        "heads": heads,
        "rank": rank,
        "nope_dim": nope_dim,
        "rope_dim": rope_dim,
        "value_dim": given.v_head_dim,
        "kv_up": up.pointer,
        "latents": view.state.pointers[0],
        "k_ropes": view.state.pointers[1],
        "slots": view.state.slots,
        "type": FORMATS[up.format],
        "position": "pass->position",
        "scale": f"(float)({scale})",
        "absorbed": node.workspace(heads * rank),
        "context": node.workspace(heads * rank),
        "out": out.pointer,
    }
    streams = {"q_nope": q_nope, "q_rope": q_rope, "latent": view.new[0], "k_rope": view.new[1]}
    values |= {name: f"{{{x.pointer}, {x.stride}}}" for name, x in streams.items()}
    fields = ",\n  ".join(f".{name} = {value}" for name, value in values.items())
    node.region(f"llmc_latent_attend(t, &(llmc_latent){{{fields}}});")
