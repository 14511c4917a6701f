"""The same model compiled for a GPU, on the chip or with its kernels interpreted, and what it says of a prompt."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from llmc.compiler.program import compile_model
from llmc.runtime.load import DTYPES
from llmc.runtime.model import LanguageModel
from llmc.runtime.tree import find

HAS_GPU = torch.cuda.is_available()
DEVICE, TARGET = ("cuda", "cuda") if HAS_GPU else ("cpu", "cuda:sm_90")


def on_gpu(model: LanguageModel) -> LanguageModel:
    """The same spec and numbers, compiled for a GPU."""
    old = model.program
    program = compile_model(old.spec, old.model, device=TARGET, dtype=old.target.dtype)
    made = LanguageModel(program)
    for path, parameter in model.named_parameters(remove_duplicate=False):
        owner, _, name = path.rpartition(".")
        leaf = cast("nn.Module", find(made, owner))
        copy = parameter.detach().to(DEVICE, DTYPES[old.target.dtype])
        setattr(leaf, name, nn.Parameter(copy, requires_grad=parameter.requires_grad))
    made.retie()
    made.layout = model.layout
    return made.eval()


def run(model: LanguageModel, prompt: Tensor, mask: Tensor, steps: int) -> list[Tensor]:
    """Logits of a prompt, 0 where `mask` says padding, and of so many tokens after it, given one by one."""
    cache = model.new_cache(len(prompt), prompt.shape[1] + steps)
    device = model.device
    with torch.no_grad():
        logits = [cast("Tensor", model(prompt.to(device), attention_mask=mask.to(device), cache=cache))]
        for step in range(steps):
            token = torch.full((len(prompt), 1), 3 + step, device=device)
            logits.append(cast("Tensor", model(token, cache=cache)))
    logits[0] = logits[0].masked_fill(~mask.to(device)[..., None], 0.0)
    return logits
