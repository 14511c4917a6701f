"""Sum: several values of one shape added up, and scaled; their mean for one."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, Sizes, TensorType


def _infer(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    first = next(iter(inputs.values()))
    for name, other in inputs.items():
        if other != first:
            raise ShapeProblem(f"cannot add {other} to {first}", name)
    return {"out": first}


def _flops(_fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return float(sum(found.count(sizes) for found in inputs.values()))


SUM = Op(
    name="sum",
    summary="(x1 + x2 + ...) * scale",
    ports=(Port(name="xs", doc="two or more of [..., M]", is_variadic=True),),
    fields=(Field(name="scale", kind="float", doc="Factor on the sum", default=1.0),),
    infer=_infer,
    flops=_flops,
    operands=("scale",),
    reference="pointwise:sum_of",
)
