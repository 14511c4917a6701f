"""One torch thread, since the machine is shared; and a cache of a test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmc.compiler.program import native_is_on
from llmc.runtime import user_cache
from llmc.runtime.native.toolchain import NoCompiler, compiler

from ..switches import only_with_passes

torch.set_num_threads(1)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder, in which files settle at once; only compiled code is that of all tests. Needs a compiler, and passes,
    without which not all of a model is compiled."""
    only_with_passes()
    if not native_is_on():
        pytest.skip("machine code is switched off")
    try:
        compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr(user_cache, "SETTLED_SECONDS", 0.0)
    compiled = user_cache.cache_folder() / "objects"
    compiled.mkdir(parents=True, exist_ok=True, mode=0o700)
    own = tmp_path / "cache" / "llmc"
    own.mkdir(parents=True)
    (own / "objects").symlink_to(compiled)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return own
