"""Runs a long prompt in pieces, so that the memory for intermediate values does not grow with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...compiler.ops.declaration import TensorType

MOST_ROWS = 512
"""Tokens of all rows of the batch together that run at once: enough for matrix products to reach their best speed."""
FEWEST = 16
"""Tokens a row in a piece, however many rows there are."""

Run = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]


def piece_of(batch: int) -> int:
    """Tokens a row that run at once."""
    return max(FEWEST, MOST_ROWS // max(1, batch))


def in_pieces(
    run: Run,
    inputs: Mapping[str, Tensor],
    ambient: Mapping[str, Tensor],
    types: Mapping[str, TensorType],
    *,
    last_token_only: bool,
) -> dict[str, Tensor]:
    """What `run(inputs, ambient)` gives for the whole: outputs of all tokens `[B, T, …]`, or `last_token_only` of each
    row's last `[B, 1, …]`, which a row that is padded on the right has in an earlier piece."""
    position = ambient["position"]
    size, found, held = piece_of(len(position)), dict[str, list[Tensor]](), ambient["lengths"]
    last = torch.full((len(position),), -1)
    for start in range(0, position.shape[1], size):
        at = position[:, start : start + size].contiguous()
        given = {
            name: value[:, start : start + size].contiguous() if types[name].shape[:2] == ("B", "T") else value
            for name, value in inputs.items()
        }
        outputs = run(given, {**ambient, "position": at, "lengths": held})
        held = held + (at >= 0).sum(dim=1)
        is_later = at.amax(dim=1) > last
        last = torch.where(is_later, at.amax(dim=1), last)
        for name, value in outputs.items():
            if not last_token_only:
                found.setdefault(name, []).append(value)
            elif name not in found:
                found[name] = [value]
            else:
                found[name][0][is_later] = value[is_later]
    return {name: torch.cat(values, dim=1) if len(values) > 1 else values[0] for name, values in found.items()}
