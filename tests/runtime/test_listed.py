"""The list of packaged specs is made once for the same sources, and anew for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc.compiler import pipeline
from llmc.runtime import listed, user_cache
from llmc.runtime.own_sources import Unsettled


@pytest.fixture(autouse=True)
def two_specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(listed, "packaged_names", lambda: ("gpt2_small", "no_such_spec"))


def no_second_time(_name: str) -> None:
    raise AssertionError("it was read again")


def test_a_list_is_kept_while_the_sources_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed, "sources_state", lambda: "one state")
    found = listed.listed()
    assert [(one.name, one.parameters, one.layers) for one in found] == [
        ("gpt2_small", 124_439_808, 12),
        ("no_such_spec", None, None),
    ]
    assert found[1].error == "E0140"
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "read", no_second_time)
        assert listed.listed() == found
        patched.setattr(listed, "sources_state", lambda: "another state")
        with pytest.raises(AssertionError, match="read again"):
            listed.listed()


def test_sources_that_may_still_change_are_not_rested_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsettled() -> str:
        raise Unsettled

    monkeypatch.setattr(listed, "sources_state", unsettled)
    assert listed.listed()[0].parameters == 124_439_808
    assert not (user_cache.cache_folder() / "known").exists()
