"""Fixtures of the compiler's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from .written_specs import Specs


@pytest.fixture
def spec(tmp_path: Path) -> Specs:
    return Specs(tmp_path)
