"""The modules of a model compiled for a GPU, with the Triton kernels that are picked for training, have the outputs and
the gradients of the references.

Without a GPU the kernels run in Triton's interpreter, on CPU tensors.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("triton")

import llmc

from .comparison import rms
from .conftest import Goldens
from .families import FAMILIES
from .family import Family
from .gpu_programs import DEVICE, on_gpu
from .test_gradients import INERT, RELATIVE, our_gradients

PROMPT = 9


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_gradients(family: Family, goldens: Goldens) -> None:
    golden = goldens(family)
    inputs = {name: value[:, :PROMPT] for name, value in golden.inputs.items()}
    here = replace(golden, tokens=golden.tokens[:, :PROMPT], inputs=inputs)
    inputs = {name: value.to(DEVICE) for name, value in inputs.items()}
    there = replace(golden, tokens=here.tokens.to(DEVICE), inputs=inputs)
    model = llmc.load(golden.folder).train()
    loss, expected = our_gradients(model, here)
    found_loss, found = our_gradients(on_gpu(model).train(), there)
    assert abs(found_loss - loss) < 1e-5 * max(1.0, abs(loss))
    largest = max(rms(gradient) for gradient in expected.values())
    for name, gradient in expected.items():
        assert rms(found[name].cpu() - gradient) <= RELATIVE * rms(gradient) + INERT * largest, name
