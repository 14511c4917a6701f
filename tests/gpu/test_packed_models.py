"""On a GPU: packed models load, out of the original and out of a built folder, and say what they say on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

import llmc
from llmc.kernels.tolerance import error_ratio
from llmc.runtime.model import LanguageModel
from llmc.specs.packaged import packaged_folder

from ..tools.command_line import child

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: make gpu")
SMALL = packaged_folder() / "models" / "small"


def logits(model: LanguageModel) -> Tensor:
    tokens = torch.arange(3, 63, device=model.device)[None]
    with torch.no_grad():
        return cast("Tensor", model(tokens, cache=model.new_cache(1, 64))).cpu().float()


@pytest.mark.parametrize("quantize", ["int8", "int4", "ternary"])
def test_they_say_what_they_say_on_a_cpu(quantize: str, tmp_path: Path) -> None:
    """But for roundings: a CPU rounds activations to 8 bits beside int8 and int4 too, and keeps float32 between layers.
    Numbers that have nothing to do with each other differ by 1.4."""
    built = child("build", str(SMALL), "--quantize", quantize, "--device", "cuda", "-o", str(tmp_path / "packed"))
    assert built.returncode == 0, built.stderr
    there = llmc.load(SMALL, device="cuda", quantize=quantize)
    read = llmc.load(tmp_path / "packed", device="cuda")
    assert torch.equal(logits(there), logits(read))
    assert error_ratio(logits(read), logits(llmc.load(SMALL, quantize=quantize))) < 0.3
    options = {"max_new_tokens": 24, "ignore_eos": True}
    assert len(read.generate([5, 9, 2], **options).tokens) == 24
