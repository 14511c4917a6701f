"""Attention over keys and values that were read from a cache."""

from __future__ import annotations

from collections.abc import Mapping

from .attention import ATTENTION, span_of
from .declaration import Fields, Inputs, Op, Port, Sizes, TensorType
from .shapes import known

_FIELDS = tuple(field for field in ATTENTION.fields if field.name not in ("dropout", "cache"))


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    heads = known(inputs["q"].features, "the width of q", "q") // fields.int("head_dim")
    return {"out": inputs["q"].with_features(heads * (fields.opt_int("v_head_dim") or fields.int("head_dim")))}


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    span = min(sizes["S"], span_of(fields) or sizes["S"])
    return 4.0 * inputs["q"].count(sizes) * span


ATTEND_CACHED = Op(
    name="attend_cached",
    summary="Attention over keys and values read from a cache",
    ports=(
        Port(name="q", doc="[B, T, H*D]"),
        Port(name="keys", doc="[B, Hkv, S, D]"),
        Port(name="values", doc="[B, Hkv, S, Dv]"),
        Port(name="key_position", doc="[B, S] int64, -1 where empty"),
        *ATTENTION.ports[3:],
    ),
    fields=_FIELDS,
    infer=_infer,
    flops=_flops,
    operands=tuple(field.name for field in _FIELDS),
    ambient=("position",),
    hints=("plan", "key_plan"),
    is_internal=True,
    is_tokenwise=False,
    reference="attention:attend_cached",
)
