"""Parameter: a free tensor whose checkpoint path is the node's own path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

from .declaration import Field, Fields, Init, Inputs, Op, ParameterSpec, TensorType


def _shape(fields: Fields) -> tuple[int, ...]:
    return tuple(cast("list[int]", fields["shape"]))


def _infer(fields: Fields, _inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": TensorType(shape=_shape(fields))}


def _parameters(fields: Fields, _inputs: Inputs) -> tuple[ParameterSpec, ...]:
    kind = cast('Literal["normal", "zeros", "ones", "constant", "log_arange", "uniform"]', fields.str("init"))
    init = Init(kind=kind, value=fields.float("init_value"))
    return (ParameterSpec(name="", shape=_shape(fields), init=init, is_trained=fields.bool("trained")),)


PARAMETER = Op(
    name="parameter",
    summary="A free learned tensor, e.g. A_log, attention sinks, lambda vectors, meta tokens",
    ports=(),
    fields=(
        Field(name="shape", kind="int_list", doc="Its shape", is_required=True, minimum=1),
        Field(
            name="init",
            kind="str",
            doc="How a fresh one is filled",
            default="zeros",
            choices=("normal", "zeros", "ones", "constant", "log_arange", "uniform"),
        ),
        Field(name="trained", kind="bool", doc="By gradients; false where the recipe sets it otherwise", default=True),
        Field(name="init_value", kind="float", doc="Standard deviation, bound or constant", default=0.02),
    ),
    infer=_infer,
    parameters=_parameters,
    reference="pointwise:identity",
)
