"""NaN and infinity in weights, found when they are loaded and not when the model has answered nonsense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..specs.diagnostics import fail
from .native.finite import is_finite
from .strict_json import shown

CHUNK = 1 << 24
"""Elements looked at in one go, which bounds the temporary memory."""
_NATIVE = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})


@dataclass(frozen=True, slots=True, kw_only=True)
class NonFinite:
    """How many elements of a tensor are NaN and infinite, and the flat index of the first."""

    nan: int
    inf: int
    first: int


def find_nonfinite(tensor: Tensor) -> NonFinite | None:
    """None for a tensor of finite numbers (integers always are). One pass without a copy where nothing is wrong."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.numel() == 0 or tensor.is_meta:
        return None
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    flat = tensor.detach().reshape(-1)
    nan, inf, first = 0, 0, -1
    for start in range(0, flat.numel(), CHUNK):
        piece = flat[start : start + CHUNK]
        piece = piece if piece.dtype in _NATIVE else piece.float()
        if torch.isfinite(torch.stack(torch.aminmax(piece))).all():
            continue
        bad = ~torch.isfinite(piece)
        nan += int(torch.isnan(piece).sum())
        inf += int(torch.isinf(piece).sum())
        if first < 0:
            first = start + int(bad.int().argmax())
    return None if first < 0 else NonFinite(nan=nan, inf=inf, first=first)


def require_finite(name: str, tensor: Tensor, file: Path | None = None) -> None:
    """Raise E0756, naming tensor, counts and the first place, where `tensor` holds NaN or infinity."""
    found = None if is_finite(tensor) else find_nonfinite(tensor)
    if found is None:
        return
    place = f" of {file}" if file else ""
    raise fail(
        "E0756",
        f"tensor {shown(name)}{place} {list(tensor.shape)} holds {found.nan} NaN and {found.inf} infinite values, "
        f"the first at element {found.first}",
        help="the training run diverged or the file is damaged; llmc never serves such weights",
    )
