"""Router loss: how evenly routers use their experts."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Fields, Inputs, Op, Port, ShapeProblem, TensorType
from .router import ROUTER
from .shapes import known


def _infer(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    logits = [found for port, found in inputs.items() if port.partition(".")[0] == "logits"]
    picks = [found for port, found in inputs.items() if port.partition(".")[0] == "experts"]
    if len(logits) != len(picks):
        raise ShapeProblem(f"{len(logits)} routers gave logits, but {len(picks)} gave experts", "experts")
    for found in logits:
        if found.shape != logits[0].shape:
            raise ShapeProblem(f"logits are {logits[0]} in one layer and {found} in another", "logits")
    one = TensorType(shape=(1,), dtype="float32")
    experts = known(logits[0].features, "the number of experts", "logits")
    return {"balance": one, "z": one, "utilisation": TensorType(shape=(len(logits), experts), dtype="float32")}


ROUTER_LOSS = Op(
    name="router_loss",
    summary="How evenly routers use their experts: the load-balance and z losses, and each expert's share",
    ports=(
        Port(name="logits", doc="[B, T, E] of each layer", is_variadic=True),
        Port(name="experts", doc="[B, T, K] of each layer", is_variadic=True),
    ),
    fields=(ROUTER.field_index["score"],),
    outputs=("balance", "z", "utilisation"),
    infer=_infer,
    operands=("score",),
    ambient=("position",),
    is_for_training=True,
    is_tokenwise=False,
    reference="moe:router_loss",
)
