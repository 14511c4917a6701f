"""Latent attention (MLA, DeepSeek-V2): keys and values of all heads are made of one cached latent per token.

The up-projection is an operand, so that decode can absorb it into queries and outputs without recognising anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, Sizes, StateSpec, TensorType
from .shapes import known


def _heads(fields: Fields, inputs: Inputs) -> int:
    """The number of heads; raises where the five inputs do not agree on it."""
    nope, rope, value = (fields.int(name) for name in ("nope_head_dim", "rope_head_dim", "v_head_dim"))
    width = known(inputs["q_nope"].features, "the width of q_nope", "q_nope")
    if width % nope:
        raise ShapeProblem(f"the width of q_nope, {width}, is no multiple of nope_head_dim {nope}", "q_nope")
    heads = width // nope
    rank = known(inputs["latent"].features, "the width of the latent", "latent")
    for port, wanted in (("q_rope", heads * rope), ("k_rope", rope)):
        if inputs[port].features != wanted:
            raise ShapeProblem(f"{port} must be {wanted} wide, but it is {inputs[port]}", port)
    if inputs["kv_up"].shape != (heads * (nope + value), rank):
        raise ShapeProblem(f"kv_up must be [{heads * (nope + value)}, {rank}], but it is {inputs['kv_up']}", "kv_up")
    return heads


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": inputs["q_nope"].with_features(_heads(fields, inputs) * fields.int("v_head_dim"))}


def _states(fields: Fields, inputs: Inputs) -> tuple[StateSpec, ...]:
    rank = known(inputs["latent"].features, "the width of the latent", "latent")
    return (StateSpec(kind="kv_latent", sizes={"rank": rank, "rope_dim": fields.int("rope_head_dim")}),)


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    """Of the unabsorbed form: expand the call's latents, then attend."""
    heads = _heads(fields, inputs)
    nope, rope, value = (fields.int(name) for name in ("nope_head_dim", "rope_head_dim", "v_head_dim"))
    expand = 2.0 * inputs["latent"].count(sizes) * heads * (nope + value)
    return expand + 2.0 * sizes["B"] * sizes["T"] * sizes["S"] * heads * (nope + rope + value)


LATENT_ATTENTION = Op(
    name="latent_attention",
    summary="Causal attention over keys and values expanded from one latent per token (MLA)",
    ports=(
        Port(name="q_nope", doc="[B, T, H*Dn], the part of the queries without position"),
        Port(name="q_rope", doc="[B, T, H*Dr], the rotated part"),
        Port(name="latent", doc="[B, T, R], normed; cached"),
        Port(name="k_rope", doc="[B, T, Dr], rotated and shared by all heads; cached"),
        Port(name="kv_up", doc="[H*(Dn+Dv), R], from a latent to each head's key and value"),
    ),
    fields=(
        Field(name="nope_head_dim", kind="int", doc="Dn", is_required=True, minimum=1),
        Field(name="rope_head_dim", kind="int", doc="Dr", is_required=True, minimum=1),
        Field(name="v_head_dim", kind="int", doc="Dv", is_required=True, minimum=1),
        Field(name="scale", kind="float", doc="Factor on q k; absent: 1/sqrt(Dn + Dr)", is_nullable=True),
    ),
    infer=_infer,
    states=_states,
    flops=_flops,
    operands=("nope_head_dim", "rope_head_dim", "v_head_dim", "scale"),
    ambient=("position",),
    hints=("plan", "key_plan"),
    cached_form="latent_attend_cached",
    is_tokenwise=False,
    reference="latent_attention:latent_attention",
)
