"""`attend_cached` for a decode step in Triton: one query, or a few, over a cache of which only the filled part is read.

Floor: the bytes of the keys and values that are seen, over memory bandwidth. Operations do not bound it up to some 200
query heads a key head. Captured in a CUDA graph, one launch serves every later token.
"""

# pyright: basic
from __future__ import annotations

from torch import Tensor

from ..gpu.op import gpu_op
from ..kernel import Request
from . import reference
from .reference import MaskKind
from .shared_rows import shares_keys
from .triton_shares import SHARES, launch

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


def _launch(
    q: Tensor, keys: Tensor, values: Tensor, key_position: Tensor, position: Tensor, bias: Tensor | None,
    distance_bias: Tensor | None, sink: Tensor | None, key_scale: Tensor | None, value_scale: Tensor | None,
    head_dim: int, is_causal: bool, window: int, chunk: int, scale: float, softcap: float, alibi: bool,
) -> Tensor:  # fmt: skip
    return launch(
        q, keys, values, key_position, None, position, bias, distance_bias, sink, key_scale, value_scale, head_dim,
        is_causal, window, chunk, scale, softcap, alibi,
    )  # fmt: skip


def _fake(
    q: Tensor, keys: Tensor, values: Tensor, key_position: Tensor, position: Tensor, bias: Tensor | None,
    distance_bias: Tensor | None, sink: Tensor | None, key_scale: Tensor | None, value_scale: Tensor | None,
    head_dim: int, is_causal: bool, window: int, chunk: int, scale: float, softcap: float, alibi: bool,
) -> Tensor:  # fmt: skip
    return q.new_empty((*position.shape, q.shape[-1] // head_dim * values.shape[-1]))


def _reference(
    q: Tensor, keys: Tensor, values: Tensor, key_position: Tensor, position: Tensor, bias: Tensor | None,
    distance_bias: Tensor | None, sink: Tensor | None, key_scale: Tensor | None, value_scale: Tensor | None,
    head_dim: int, is_causal: bool, window: int, chunk: int, scale: float, softcap: float, alibi: bool,
) -> Tensor:  # fmt: skip
    if key_scale is not None and value_scale is not None:
        keys, values = (x.float() * s.view(-1, 1, 1) for x, s in ((keys, key_scale), (values, value_scale)))
    return reference.attend_cached(
        q=q, keys=keys, values=values, key_position=key_position, position=position, head_dim=head_dim,
        v_head_dim=values.shape[-1], mask="causal" if is_causal else "bidirectional", window=window or None,
        chunk=chunk or None, scale=scale, softcap=softcap or None, alibi=alibi, bias=bias, distance_bias=distance_bias,
        sink=sink,
    )  # fmt: skip


_attend = gpu_op("attend_decode", _launch, fake=_fake, reference=_reference)


def attend_scaled(
    *,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    key_position: Tensor,
    position: Tensor,
    head_dim: int,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
    mask: MaskKind = "causal",
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    bias: Tensor | None = None,
    distance_bias: Tensor | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """`attend_cached` over a cache that may be narrower than q: float8_e4m3fn keys and values times their scales.

    key_scale and value_scale: both, `[Hkv]` or `[1]` float32, or neither. Raises ValueError for one alone.
    """
    if (key_scale is None) != (value_scale is None):
        raise ValueError("keys and values have a scale each, or none has")
    return _attend(
        q, keys, values, key_position, position, bias, distance_bias, sink, key_scale, value_scale, head_dim,
        mask == "causal", window or 0, chunk or 0, head_dim**-0.5 if scale is None else scale, softcap or 0.0, alibi,
    )  # fmt: skip


@shares_keys
def attend_cached(
    *,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    key_position: Tensor,
    position: Tensor,
    head_dim: int,
    v_head_dim: int | None = None,
    mask: MaskKind = "causal",
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    bias: Tensor | None = None,
    distance_bias: Tensor | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """Arguments and result are those of the reference, without gradients. Raises ValueError for dropout."""
    if training and dropout > 0.0:
        raise ValueError("a decode step has no dropout")
    return attend_scaled(
        q=q,
        keys=keys,
        values=values,
        key_position=key_position,
        position=position,
        head_dim=head_dim,
        mask=mask,
        window=window,
        chunk=chunk,
        scale=scale,
        softcap=softcap,
        alibi=alibi,
        bias=bias,
        distance_bias=distance_bias,
        sink=sink,
    )
