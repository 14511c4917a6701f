"""RoPE's cosines and sines, computed once per call for all layers."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Fields, Inputs, Op, Port, TensorType
from .rope import ROPE, TABLE_FIELDS


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": TensorType(shape=(*inputs["position"].shape, fields.int("rotary_dim")), dtype="float32")}


ROPE_TABLE = Op(
    name="rope_table",
    summary="Cosines and sines of every position, computed once per call for all layers",
    ports=(Port(name="position", doc="[B, T] int64"),),
    fields=(ROPE.field_index["rotary_dim"], *TABLE_FIELDS),
    infer=_infer,
    operands=("rotary_dim", *(f.name for f in TABLE_FIELDS)),
    reference="rope:rope_table",
    is_internal=True,
)
