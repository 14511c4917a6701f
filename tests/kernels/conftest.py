"""One thread, one seed, one build and one patch of Triton's language for every test of a kernel."""

from __future__ import annotations

import os

import pytest
import torch

from .interpreted import patch_once
from .native import build_in


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _one_patch() -> None:
    patch_once()


@pytest.fixture(autouse=True, scope="session")
def _one_build(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All workers of a run compile the kernels into one folder."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "native"
    shared.mkdir(exist_ok=True)
    build_in(shared)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.default_generator.manual_seed(0)
