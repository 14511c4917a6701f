"""The goldens are not blind: each mistake, in either view of the model, fails the check that the right model passes."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import llmc

from .comparison import NotGoldenError
from .conftest import Goldens
from .families import CAUSAL, Family
from .mutations import Mutation, edited, mutations
from .reference import Golden
from .running import RUNS, require_golden

CASES = [(family, mutation) for family in CAUSAL for mutation in mutations(family)]
INERT = ("attention.self.key.bias",)
"""Added to every key alike, it shifts all scores of a query by the same amount, which softmax does not see."""


def mutant_spec(family: Family, mutation: Mutation, folder: Path) -> Path:
    """A file that extends the family's spec by the mistake."""
    document = {"llmc": 1, "name": "mutant", "extends": family.spec, **mutation.overlay}
    path = folder / "mutant.yaml"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.usefixtures("through_torch")
@pytest.mark.parametrize(("family", "mutation"), CASES, ids=[f"{f.name}-{m.name}" for f, m in CASES])
def test_a_mutant_is_not_golden(goldens: Goldens, tmp_path: Path, family: Family, mutation: Mutation) -> None:
    golden = goldens(family)
    spec = mutant_spec(family, mutation, tmp_path)
    mutant = llmc.load(spec, weights=golden.folder, params={**family.params, **mutation.params})
    edited(mutant, mutation.edit)
    for run in RUNS.values():
        with pytest.raises(NotGoldenError):
            require_golden(golden, run(mutant, golden.tokens, **golden.inputs))


def test_a_spec_that_only_extends_is_golden(golden: Golden, tmp_path: Path) -> None:
    """So that the mutants fail for their mistake and not for the way they are made."""
    family = golden.family
    spec = mutant_spec(family, Mutation(name="none"), tmp_path)
    extended = llmc.load(spec, weights=golden.folder, params=dict(family.params))
    for run in RUNS.values():
        require_golden(golden, run(extended, golden.tokens, **golden.inputs))


def is_golden(golden: Golden, outputs: dict[str, Tensor]) -> bool:
    try:
        require_golden(golden, outputs)
    except NotGoldenError:
        return False
    return True


def test_every_tensor_matters(golden: Golden) -> None:
    """The rows of any one tensor moved on by one fail the check; moved back, it passes again in both views."""
    model = llmc.load(golden.folder)
    for path, parameter in model.named_parameters():
        original = parameter.detach().clone()
        with torch.no_grad():
            axis = next((axis for axis, size in enumerate(original.shape) if size > 1), 0)
            parameter.copy_(original.roll(1, dims=axis))
        for name, run in RUNS.items():
            outputs = run(model, golden.tokens, **golden.inputs)
            if path.endswith((*INERT, *golden.family.inert)):
                require_golden(golden, outputs)
                continue
            assert not is_golden(golden, outputs), f"{name} does not see {path}"
        with torch.no_grad():
            parameter.copy_(original)
    for run in RUNS.values():
        require_golden(golden, run(model, golden.tokens, **golden.inputs))
