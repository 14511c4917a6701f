"""Each dropout param acts in training and in training only."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import pytest
import torch

import llmc

from .conftest import Goldens
from .families import FAMILIES, Family
from .running import named, require_golden, run_modules, run_program

CASES = [(family, param) for family in FAMILIES for param in family.params if "dropout" in param]


@pytest.mark.parametrize(("family", "param"), CASES, ids=[f"{family.name}-{param}" for family, param in CASES])
def test_dropout_acts_in_training_only(goldens: Goldens, family: Family, param: str) -> None:
    golden = goldens(family)
    model = llmc.load(family.spec, weights=golden.folder, params={**family.params, param: 0.3})
    require_golden(golden, run_modules(model, golden.tokens, **golden.inputs))
    require_golden(golden, run_program(model, golden.tokens, **golden.inputs))
    model.train()
    first, second = (named(model(golden.tokens, **golden.inputs)) for _ in range(2))
    for name, expected in golden.expected.items():
        assert (first[name] - second[name]).abs().max() > 0.01, name
        assert (first[name] - expected).abs().max() > 0.01, name
    torch.default_generator.manual_seed(7)
    third = named(model(golden.tokens, **golden.inputs))
    torch.default_generator.manual_seed(7)
    for name, value in named(model(golden.tokens, **golden.inputs)).items():
        assert torch.equal(value, third[name]), name
    require_golden(golden, run_modules(model.eval(), golden.tokens, **golden.inputs))
