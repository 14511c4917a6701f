"""Programs for a GPU, with the Triton kernels that the compiler picks, give the logits of every architecture.

Without a GPU the kernels run in Triton's interpreter, on CPU tensors: some architectures by default, all of them in the
long form. `make gpu` runs all of them on the chip, their decoding recorded as CUDA graphs.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton")

import llmc
from llmc.compiler.program import compile_model
from llmc.runtime.gpu.executor import GpuExecutor
from llmc.runtime.load import DTYPES
from llmc.runtime.model import LanguageModel
from llmc.runtime.tree import find

from .comparison import require_equal
from .conftest import Goldens
from .families import CAUSAL, Family
from .recurrent_families import RECURRENT
from .reference import Golden

HAS_GPU = torch.cuda.is_available()
DEVICE, TARGET = ("cuda", "cuda") if HAS_GPU else ("cpu", "cuda:sm_90")
QUICK = ("llama", "mixtral", "deepseek_v3", "hydra", "mamba2_biases", "qwen3_next")
PROMPT, STEPS = 9, 1


def on_gpu(model: LanguageModel) -> LanguageModel:
    """The same spec and numbers, compiled for a GPU."""
    old = model.program
    program = compile_model(old.spec, old.model, device=TARGET, dtype=old.target.dtype)
    made = LanguageModel(program)
    for path, parameter in model.named_parameters(remove_duplicate=False):
        owner, _, name = path.rpartition(".")
        leaf = cast("nn.Module", find(made, owner))
        setattr(leaf, name, nn.Parameter(parameter.detach().to(DEVICE, DTYPES[old.target.dtype]), requires_grad=False))
    made.retie()
    return made.eval()


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
    found, expected = (run(one, prompt, mask) for one in (ours, model))
    for name, actual, wanted in zip(("prefill", *["decode"] * STEPS), found, expected, strict=True):
        require_equal(f"{name} logits", actual.cpu(), wanted)


def run(model: LanguageModel, prompt: Tensor, mask: Tensor) -> list[Tensor]:
    """Logits of a prompt whose second row is padded on its left, and of tokens after it, given one by one."""
    cache = model.new_cache(len(prompt), PROMPT + STEPS)
    device = model.device
    with torch.no_grad():
        logits = [cast("Tensor", model(prompt.to(device), attention_mask=mask.to(device), cache=cache))]
        for step in range(STEPS):
            token = torch.full((len(prompt), 1), 3 + step, device=device)
            logits.append(cast("Tensor", model(token, cache=cache)))
    logits[0] = logits[0].masked_fill(~mask.to(device)[..., None], 0.0)
    return logits
