"""`append_attend` by launches of their own: norms, an append that rotates, attention; for prompts and for what one
launch does not serve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from ..cache import reference as cache_reference
from ..cache.fields import KvState
from ..kernel import Request, resolve
from ..norm import reference as norm_reference
from ..record import Called, called_with
from . import sdpa
from .fields import AppendAttend, AttendCached


def serves(request: Request) -> str | None:
    """None, or why the append or the attention cannot be a Triton kernel."""
    append = f"cache.triton_append:{'serves_rope' if 'table' in request.shapes else 'serves'}"
    attend = f"attention.triton_{'decode' if request.phase == 'decode' else 'attention'}:serves"
    refused = resolve(append)(request) or resolve(attend)(_attending(request))
    return cast("str | None", refused)


def serves_sdpa(request: Request) -> str | None:
    """None, or why `scaled_dot_product_attention` cannot attend."""
    return sdpa.serves(_attending(request))


def _attending(request: Request) -> Request:
    """The attention alone, as `attend_cached` asks."""
    heads, key_dim, value_dim = (cast("int", request.fields[name]) for name in ("heads", "key_dim", "value_dim"))
    shapes = {**request.shapes, "keys": ("B", heads, "S", key_dim), "values": ("B", heads, "S", value_dim)}
    fields = {**request.fields, "head_dim": key_dim, "v_head_dim": value_dim}
    return replace(request, op="attend_cached", fields=fields, shapes=shapes)


@called_with(AppendAttend)
def append_attend(given: AppendAttend) -> tuple[Tensor, KvState]:
    """Arguments and result are those of the reference. Triton kernels: of norms, of the append, of attention."""
    from ..cache import triton_append
    from ..norm import triton_rms_norm
    from . import triton_attention, triton_decode

    attends = triton_decode if given.position.shape[1] == 1 else triton_attention
    return _apart(triton_rms_norm, triton_append, attends, given)


@called_with(AppendAttend)
def append_attend_sdpa(given: AppendAttend) -> tuple[Tensor, KvState]:
    """Arguments and result are those of the reference; attention is torch's operator."""
    return _apart(norm_reference, cache_reference, sdpa, given)


def _apart(norms: Any, appends: Any, attends: Any, given: AppendAttend) -> tuple[Tensor, KvState]:
    """The three steps, by the functions of these modules that have the names of the ops."""
    q, k = given.q, given.k
    if given.q_norm_weight is not None:
        norm = cast("Callable[..., Tensor]", norms.rms_norm)
        options = {"eps": given.norm_eps, "weight_offset": given.norm_offset, "head_dim": given.key_dim}
        q, k = norm(x=q, weight=given.q_norm_weight, **options), norm(x=k, weight=given.k_norm_weight, **options)
    name = "kv_full_append" if given.ring is None else "kv_window_append"
    append = getattr(appends, name if given.table is None else f"rope_{name}")
    state, keys, values, at, *turned = append.of(given.appending(q, k))
    attend = cast("Called[..., AttendCached, Tensor]", attends.attend_cached)
    return attend.of(given.attending(turned[0] if turned else q, keys, values, at)), state
