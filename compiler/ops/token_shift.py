"""Token shift: each token reads the one before it."""

from __future__ import annotations

from .declaration import Fields, Inputs, Op, Port, StateSpec
from .shapes import known, same_as_input


def _states(_fields: Fields, inputs: Inputs) -> tuple[StateSpec, ...]:
    features = known(inputs["x"].features, "the shifted width", "x")
    return (StateSpec(kind="token_shift", sizes={"features": features}),)


TOKEN_SHIFT = Op(
    name="token_shift",
    summary="The token before each token, zeros before the first (RWKV)",
    ports=(Port(name="x", doc="[B, T, M]"),),
    infer=same_as_input,
    states=_states,
    ambient=("position",),
    is_tokenwise=False,
    reference="shift:token_shift",
)
