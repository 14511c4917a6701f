"""Each family is made once, by tests that run one family after another; tests that change a model load their own."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import llmc
from llmc.runtime.model import LanguageModel

from .families import FAMILIES
from .family import Family
from .reference import Golden, make_golden

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

Goldens = Callable[[Family], Golden]
Load = Callable[[], LanguageModel]
Models = Callable[[Family, str, Load], LanguageModel]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of a family in one run, so that a worker makes it once and keeps no other."""
    places = [index for index, item in enumerate(items) if Path(__file__).parent in item.path.parents]
    ordered = sorted((items[index] for index in places), key=_family_name)
    for index, item in zip(places, ordered, strict=True):
        items[index] = item


def _family_name(item: pytest.Item) -> str:
    """The family that a test is about; empty for a test of none."""
    assert isinstance(item, pytest.Function)
    given = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return next((value.name for value in given if isinstance(value, Family)), "")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.default_generator.manual_seed(0)


@pytest.fixture
def through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without machine code: each mutant would be compiled for one use."""
    monkeypatch.setenv("LLMC_NATIVE", "0")


@pytest.fixture(scope="session")
def goldens(tmp_path_factory: pytest.TempPathFactory) -> Goldens:
    """The golden of a family, made where the last one was another's."""
    made: dict[str, Golden] = {}

    def get(family: Family) -> Golden:
        if family.name not in made:
            made.clear()
            made[family.name] = make_golden(family, tmp_path_factory.mktemp(family.name))
        return made[family.name]

    return get


@pytest.fixture(scope="session")
def models() -> Models:
    """A model of a family, loaded where none of that kind is at hand."""
    loaded: dict[tuple[str, str], LanguageModel] = {}

    def get(family: Family, kind: str, load: Load) -> LanguageModel:
        if (family.name, kind) not in loaded:
            for other in [key for key in loaded if key[0] != family.name]:
                del loaded[other]
            loaded[family.name, kind] = load()
        return loaded[family.name, kind]

    return get


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def golden(request: pytest.FixtureRequest, goldens: Goldens) -> Golden:
    """Every family; `each_causal` and `each_encoder` narrow it."""
    return goldens(request.param)


@pytest.fixture
def model(golden: Golden, models: Models) -> LanguageModel:
    """The family's folder as llmc loads it. Shared: leave it as it is."""
    return models(golden.family, "folder", lambda: llmc.load(golden.folder))


@pytest.fixture
def model_by_spec(golden: Golden, models: Models) -> LanguageModel:
    """The family's spec with its params and the folder's weights. Shared: leave it as it is."""
    family = golden.family
    return models(family, "spec", lambda: llmc.load(family.spec, weights=golden.folder, params=dict(family.params)))


@pytest.fixture
def wide_model(golden: Golden, models: Models) -> LanguageModel:
    """The family's folder in float64. Shared: leave it as it is."""
    return models(golden.family, "wide", lambda: llmc.load(golden.folder, dtype="float64"))
