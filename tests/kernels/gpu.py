"""Where Triton kernels are tested: in the interpreter on a CPU, and by `make gpu` the same tests on the chip."""

from __future__ import annotations

import pytest
import torch

from llmc.kernels.gpu.op import is_interpreted

DEVICE = "cpu" if is_interpreted() else "cuda"
DTYPES = (torch.float32, torch.float16) if is_interpreted() else (torch.float32, torch.float16, torch.bfloat16)
"""The interpreter's bfloat16 products are wrong."""

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=[str(dtype).removeprefix("torch.") for dtype in DTYPES])
