"""RoPE by a table of cosines and sines."""

from __future__ import annotations

from .declaration import Op, Port
from .rope import ROPE
from .shapes import same_as_input

ROPE_APPLY = Op(
    name="rope_apply",
    summary="Rotate each head by a table of cosines and sines",
    ports=(Port(name="x", doc="[B, T, H*D]"), Port(name="table", doc="[B, T, rotary_dim] float32")),
    fields=(ROPE.field_index["head_dim"], ROPE.field_index["rotary_dim"], ROPE.field_index["layout"]),
    infer=same_as_input,
    flops=ROPE.flops,
    operands=("head_dim", "rotary_dim", "layout"),
    reference="rope:rope_apply",
    is_internal=True,
)
