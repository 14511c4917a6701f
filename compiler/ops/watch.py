"""Watch: numbers to look at in training."""

from __future__ import annotations

from .concat import CONCAT
from .declaration import Op, Port

WATCH = Op(
    name="watch",
    summary="Numbers to look at in training, side by side; inference neither computes nor gives them",
    ports=(Port(name="xs", doc="[..., M_i], of each layer for one", is_variadic=True),),
    fields=CONCAT.fields,
    infer=CONCAT.infer,
    operands=("heads",),
    is_for_training=True,
    is_tokenwise=False,
    reference=CONCAT.reference,
)
