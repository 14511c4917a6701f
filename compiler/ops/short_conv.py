"""Short convolution: a depthwise causal convolution over the last few tokens."""

from __future__ import annotations

from collections.abc import Mapping

from .activation import ACTIVATIONS
from .declaration import Field, Fields, Init, Inputs, Op, ParameterSpec, Port, Sizes, StateSpec, TensorType
from .learned import learned_bias
from .shapes import known


def _channels(inputs: Inputs) -> int:
    return known(inputs["x"].features, "the number of channels", "x")


def _infer(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    _channels(inputs)
    return {"out": inputs["x"]}


def _parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    channels, kernel = _channels(inputs), fields.int("kernel")
    weight = ParameterSpec(
        name="weight", shape=(channels, 1, kernel), init=Init(kind="uniform", value=float(kernel) ** -0.5)
    )
    return (weight, *learned_bias(fields, channels))


def _states(fields: Fields, inputs: Inputs) -> tuple[StateSpec, ...]:
    return (StateSpec(kind="conv", sizes={"channels": _channels(inputs), "kernel": fields.int("kernel")}),)


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return 2.0 * inputs["x"].count(sizes) * fields.int("kernel")


SHORT_CONV = Op(
    name="short_conv",
    summary="Depthwise causal convolution over the last tokens, then an activation",
    ports=(Port(name="x", doc="[B, T, C]"),),
    fields=(
        Field(
            name="kernel", kind="int", doc="Number of taps: this token and those before it", is_required=True, minimum=1
        ),
        Field(name="bias", kind="bool", doc="Add a learned bias", default=True),
        Field(name="activation", kind="str", doc="Applied to the sum", default="identity", choices=ACTIVATIONS),
    ),
    infer=_infer,
    parameters=_parameters,
    states=_states,
    flops=_flops,
    operands=("activation",),
    ambient=("position",),
    is_tokenwise=False,
    reference="conv:short_conv",
)
