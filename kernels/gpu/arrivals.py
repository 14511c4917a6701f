"""Counters by which the programs of a launch tell who comes last: zeros that each launch leaves as zeros.

They belong to the buffer that a launch writes, a layer's cache, and go with it. So launches into different caches may
run at once, as graphs on two streams do; those into one cache follow one another anyway.
"""

# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

HELD = "llmc_arrivals"
"""The attribute by which a buffer holds its counters."""


def arrivals(written: Tensor, count: int) -> Tensor:
    """`[count]` int32 beside the buffer `written`: one counter for the programs that share a result.

    The same at each call with this tensor; made at the first, which therefore is not one that is recorded. What torch's
    compiler traces makes its own at each call.
    """
    if torch.compiler.is_compiling():
        return torch.zeros(count, dtype=torch.int32, device=written.device)
    found: Tensor | None = None if isinstance(written, FakeTensor) else getattr(written, HELD, None)
    if found is not None and len(found) >= count:
        return found
    with torch.inference_mode(False):
        made = torch.zeros(count, dtype=torch.int32, device=written.device)
    if not isinstance(written, FakeTensor):
        setattr(written, HELD, made)
    return made
