"""Programs for a GPU, with the Triton kernels that the compiler picks, give the logits of every architecture.

Without a GPU the kernels run in Triton's interpreter, on CPU tensors: some architectures by default, all of them in the
long form. `make gpu` runs all of them on the chip, their decoding recorded as CUDA graphs.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

import llmc
from llmc.runtime.gpu.executor import GpuExecutor

from .comparison import require_equal
from .conftest import Goldens
from .families import CAUSAL, Family
from .gpu_programs import HAS_GPU, on_gpu, run
from .recurrent_families import RECURRENT
from .reference import Golden

QUICK = ("llama", "mistral_window", "mixtral", "deepseek_v3", "hydra", "mamba2_biases", "qwen3_next")
PROMPT, STEPS = 9, 1


def each() -> list[object]:
    """A parameter a family; the long ones are marked, unless there is a GPU."""
    marks = [] if HAS_GPU else [pytest.mark.slow]
    return [
        pytest.param(family, id=family.name, marks=[] if family.name in QUICK else marks)
        for family in (*CAUSAL, *RECURRENT)
    ]


@pytest.mark.parametrize("family", each())
def test_logits(family: Family, goldens: Goldens) -> None:
    golden: Golden = goldens(family)
    model = llmc.load(golden.folder)
    ours = on_gpu(model)
    executor = ours.executor()
    assert isinstance(executor, GpuExecutor)
    prompt = golden.tokens[:, :PROMPT]
    mask = torch.ones_like(prompt, dtype=torch.bool)
    mask[1, :3] = False
    found, expected = (run(one, prompt, mask, STEPS) for one in (ours, model))
    for name, actual, wanted in zip(("prefill", *["decode"] * STEPS), found, expected, strict=True):
        require_equal(f"{name} logits", actual.cpu(), wanted)
