"""Parameters that several ops own: a weight drawn from a normal distribution, a bias of zeros."""

from __future__ import annotations

from .declaration import Field, Fields, Init, ParameterSpec

INIT_STD = Field(name="init_std", kind="float", doc="Standard deviation of a fresh weight", default=0.02, minimum=0)


def normal_init(fields: Fields) -> Init:
    """How a fresh weight of an op with the field `init_std` is filled."""
    return Init(kind="normal", value=fields.float("init_std"))


def learned_bias(fields: Fields, size: int) -> tuple[ParameterSpec, ...]:
    """The bias of an op with the field `bias`; nothing where that is false."""
    return (ParameterSpec(name="bias", shape=(size,), init=Init(kind="zeros")),) if fields.bool("bias") else ()
