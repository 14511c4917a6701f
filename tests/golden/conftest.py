"""Each family is made once a session; tests that change a model load their own."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers

import llmc
from llmc.runtime.model import LanguageModel

from .families import FAMILIES, Family
from .reference import Golden, make_golden

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

Goldens = Callable[[Family], Golden]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.default_generator.manual_seed(0)


@pytest.fixture
def through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without machine code: each mutant would be compiled for one use."""
    monkeypatch.setenv("LLMC_NATIVE", "0")


@pytest.fixture(scope="session")
def goldens(tmp_path_factory: pytest.TempPathFactory) -> Goldens:
    """The golden of a family, made on first use."""
    made: dict[str, Golden] = {}

    def get(family: Family) -> Golden:
        if family.name not in made:
            made[family.name] = make_golden(family, tmp_path_factory.mktemp(family.name))
        return made[family.name]

    return get


@pytest.fixture(scope="session")
def models() -> dict[str, LanguageModel]:
    return {}


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def golden(request: pytest.FixtureRequest, goldens: Goldens) -> Golden:
    """Every family; `each_causal` and `each_encoder` narrow it."""
    return goldens(request.param)


@pytest.fixture
def model(golden: Golden, models: dict[str, LanguageModel]) -> LanguageModel:
    """The family's folder as llmc loads it. Shared: leave it as it is."""
    name = golden.family.name
    if name not in models:
        models[name] = llmc.load(golden.folder)
    return models[name]
