"""Attention of few queries over a cache of pages in Triton: what a server that batches requests runs for each token.

It is the kernel of `triton_decode`, which here finds its keys through the table; since the key at position p lies p
slots after the first, no positions are looked through. Floor: the bytes of the keys and values that are seen.
"""

# pyright: basic
from __future__ import annotations

from torch import Tensor

from ..gpu.op import gpu_op
from ..record import called_with
from . import paged_reference
from .fields import AttendPaged
from .triton_settings import Settings
from .triton_shares import Operands, launch, shape_of


def _reference(x: Operands, settings: Settings) -> Tensor:
    assert x.lengths is not None
    fields = settings.fields()
    del fields["v_head_dim"]
    return paged_reference.attend_paged(
        q=x.q, keys=x.keys, values=x.values, block_table=x.at, lengths=x.lengths, position=x.position,
        key_scale=x.key_scale, value_scale=x.value_scale, distance_bias=x.distance_bias, sink=x.sink, **fields,
    )  # fmt: skip


_attend = gpu_op("attend_paged", launch, fake=shape_of, reference=_reference)


@called_with(AttendPaged)
def attend_paged(given: AttendPaged) -> Tensor:
    """Arguments and result are those of `paged_reference`, without gradients.

    Raises ValueError for one scale without the other, and for pages that are not a power of two of at least 16 tokens.
    """
    if (given.key_scale is None) != (given.value_scale is None):
        raise ValueError("keys and values have a scale each, or none has")
    size = given.keys.shape[2]
    if size < 16 or size & (size - 1):
        raise ValueError(f"a page holds a power of two of at least 16 tokens, not {size}")
    operands = Operands(
        given.q, given.keys, given.values, given.block_table, given.lengths, given.position, None, given.distance_bias,
        given.sink, given.key_scale, given.value_scale,
    )  # fmt: skip
    return _attend(*operands, *Settings.of(given, given.head_dim, given.values.shape[-1], given.mask))
