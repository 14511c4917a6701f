"""Options and limits that every test shares."""

from __future__ import annotations

import os
from typing import Any

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")
"""Triton kernels run on CPU tensors, unless `make gpu` says 0."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden texts instead of comparing with them")
    parser.addoption("--slow", action="store_true", help="run the long form of tests too")


def pytest_configure(config: pytest.Config) -> None:
    import torch
    from hypothesis import HealthCheck, settings

    torch.set_num_threads(1)
    # The default run draws the same examples each time: what is green stays green. `--slow` looks for new ones.
    shared: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # machines are shared
    settings.register_profile("default", max_examples=20, derandomize=True, **shared)
    settings.register_profile("slow", max_examples=200, **shared)
    settings.load_profile("slow" if config.getoption("--slow") else "default")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="long form: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
