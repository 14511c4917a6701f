"""Counters by which the programs of a launch tell who comes last: zeros that each launch leaves as zeros.

They are made once a device, before any graph is recorded. Launches of one device must follow one another, as those of a
stream do: two that run at once would count each other's programs.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

MOST = 1 << 16
"""Counters of a device: one is for the programs that share a result."""

_counters: dict[torch.device, Tensor] = {}


def arrivals(like: Tensor) -> Tensor:
    """`[MOST]` int32 on the device of `like`."""
    if isinstance(like, FakeTensor):
        return torch.empty(MOST, dtype=torch.int32, device=like.device)
    if like.device not in _counters:
        with torch.inference_mode(False):
            _counters[like.device] = torch.zeros(MOST, dtype=torch.int32, device=like.device)
    return _counters[like.device]
