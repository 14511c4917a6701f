"""`attend_cached` for a decode step in Triton: one query, or a few, over a cache of which only the filled part is read.

Floor: the bytes of the keys and values that are seen, over memory bandwidth. Operations do not bound it up to some 200
query heads a key head. Captured in a CUDA graph, one launch serves every later token.
"""

# pyright: basic
from __future__ import annotations

from torch import Tensor

from ..gpu.op import gpu_op
from ..kernel import Request
from ..record import called_with, shared
from . import reference
from .fields import AttendCached, AttendScaled
from .shared_rows import shares_keys
from .triton_settings import Settings
from .triton_shares import SHARES, Operands, launch, shape_of

TUNABLES = (SHARES,)
WIDEST_HEAD = 256


def serves(request: Request) -> str | None:
    """None, or the limit that the node is beyond."""
    if request.phase != "decode":
        return "cutting the keys into shares pays for few queries only"
    if request.dtype == "float64":
        return "sums are float32"
    widths = (request.shapes["keys"][-1], request.shapes["values"][-1])
    too_wide = next((width for width in widths if not isinstance(width, int) or width > WIDEST_HEAD), None)
    return None if too_wide is None else f"a head of {too_wide} is wider than {WIDEST_HEAD}"


def _reference(x: Operands, settings: Settings) -> Tensor:
    keys, values = x.keys, x.values
    if x.key_scale is not None and x.value_scale is not None:
        keys, values = (one.float() * s.view(-1, 1, 1) for one, s in ((keys, x.key_scale), (values, x.value_scale)))
    return reference.attend_cached(
        q=x.q, keys=keys, values=values, key_position=x.at, position=x.position, bias=x.bias,
        distance_bias=x.distance_bias, sink=x.sink, **settings.fields(),
    )  # fmt: skip


_attend = gpu_op("attend_decode", launch, fake=shape_of, reference=_reference)


@called_with(AttendScaled)
def attend_scaled(given: AttendScaled) -> Tensor:
    """`attend_cached` over a cache that may be narrower than q: float8_e4m3fn keys and values times their scales.

    key_scale and value_scale: both, `[Hkv]` or `[1]` float32, or neither. Raises ValueError for one alone.
    """
    if given.training and given.dropout > 0.0:
        raise ValueError("a decode step has no dropout")
    if (given.key_scale is None) != (given.value_scale is None):
        raise ValueError("keys and values have a scale each, or none has")
    operands = Operands(
        given.q, given.keys, given.values, given.key_position, None, given.position, given.bias, given.distance_bias,
        given.sink, given.key_scale, given.value_scale,
    )  # fmt: skip
    return _attend(*operands, *Settings.of(given, given.head_dim, given.values.shape[-1], given.mask))


@called_with(AttendCached)
@shares_keys
def attend_cached(given: AttendCached) -> Tensor:
    """Arguments and result are those of the reference, without gradients. Raises ValueError for dropout."""
    return attend_scaled.of(AttendScaled(**shared(given, AttendCached)))
