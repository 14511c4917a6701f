"""Latent attention over cached latents."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Fields, Inputs, Op, Port, Sizes, TensorType
from .latent_attention import LATENT_ATTENTION
from .shapes import known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    heads = known(inputs["q_nope"].features, "the width of q_nope", "q_nope") // fields.int("nope_head_dim")
    return {"out": inputs["q_nope"].with_features(heads * fields.int("v_head_dim"))}


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    """Of the absorbed form, in which a cached token costs its latent twice and its rotated part once."""
    rank = known(inputs["latents"].features, "the width of the latents", "latents")
    heads = known(inputs["q_nope"].features, "the width of q_nope", "q_nope") // fields.int("nope_head_dim")
    return 2.0 * sizes["B"] * sizes["T"] * sizes["S"] * heads * (2 * rank + fields.int("rope_head_dim"))


LATENT_ATTEND_CACHED = Op(
    name="latent_attend_cached",
    summary="Latent attention over cached latents",
    ports=(
        *LATENT_ATTENTION.ports[:2],
        Port(name="latents", doc="[B, 1, S, R]"),
        Port(name="k_ropes", doc="[B, 1, S, Dr]"),
        Port(name="key_position", doc="[B, S] int64, -1 where empty"),
        LATENT_ATTENTION.ports[4],
    ),
    fields=LATENT_ATTENTION.fields,
    infer=_infer,
    flops=_flops,
    operands=LATENT_ATTENTION.operands,
    ambient=("position",),
    hints=("plan", "key_plan"),
    is_internal=True,
    is_tokenwise=False,
    reference="latent_attention:latent_attend_cached",
)
