"""Top-k sparsity: only a share of the features stays, by a cutoff that needs no sort."""

from __future__ import annotations

from .costs import one_flop
from .declaration import Field, Op, Port
from .shapes import same_as_input

TOPK_SPARSITY = Op(
    name="topk_sparsity",
    summary="relu(x - cutoff), where the cutoff leaves a share of a normal distribution's features (Gemma 3n)",
    ports=(Port(name="x", doc="[..., F]"),),
    fields=(
        Field(
            name="sparsity",
            kind="float",
            doc="Share of features to zero, below 1",
            is_required=True,
            is_scalar=True,
            minimum=0,
        ),
    ),
    infer=same_as_input,
    flops=one_flop,
    operands=("sparsity",),
    reference="pointwise:topk_sparsity",
)
