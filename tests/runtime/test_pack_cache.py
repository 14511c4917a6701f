"""What is remembered of weights between loads: packed matrices, and that a file's numbers are finite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import llmc
from llmc.runtime import pack_cache, user_cache, weights
from llmc.runtime.finiteness import require_finite
from llmc.runtime.model import LanguageModel
from llmc.runtime.native import finite
from llmc.specs.diagnostics import LlmcError

PARAMS = {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 96, "vocab_size": 61}


@pytest.fixture(autouse=True)
def folder(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint, beside a cache of the test's own."""
    monkeypatch.setattr("llmc.runtime.load.recall", lambda *_: None)  # type: ignore[arg-type]  # no kept model
    llmc.load("llama", params=PARAMS).save(tmp_path / "model")
    return tmp_path / "model"


def entries(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("cache/llmc/packed/*/model.safetensors"))


def tokens(model: LanguageModel) -> list[int]:
    return model.generate([1, 2, 3], max_new_tokens=6, ignore_eos=True).tokens


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_the_second_load_packs_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantize: str
) -> None:
    first = llmc.load(folder, quantize=quantize)
    (entry,) = entries(tmp_path)
    made = entry.stat().st_mtime_ns

    def pack(*_: object, **__: object) -> None:
        pytest.fail("packed again")

    monkeypatch.setattr("llmc.runtime.native.binding.pack", pack)
    again = llmc.load(folder, quantize=quantize)
    assert tokens(again) == tokens(first)
    packed = again.packed_executor().binding.packed
    assert all(torch.equal(packed[name], one) for name, one in first.packed_executor().binding.packed.items())
    assert all(one.data_ptr() % 32 == 0 for one in packed.values())
    assert entries(tmp_path) == [entry]
    assert entry.stat().st_mtime_ns == made


def test_other_weights_and_formats_are_other_entries(folder: Path, tmp_path: Path) -> None:
    first = llmc.load(folder, quantize="int8")
    llmc.load(folder, quantize="ternary")
    assert len(entries(tmp_path)) == 2
    llmc.load("llama", params=PARAMS, seed=1).save(folder)
    assert tokens(llmc.load(folder, quantize="int8")) == tokens(
        llmc.load("llama", params=PARAMS, seed=1, quantize="int8")
    )
    assert len(entries(tmp_path)) == 3
    assert tokens(llmc.load("llama", params=PARAMS, quantize="int8")) == tokens(first)
    assert len(entries(tmp_path)) == 3, "weights that lie in no file are not kept"


def test_a_damaged_entry_is_made_again(folder: Path, tmp_path: Path) -> None:
    expected = tokens(llmc.load(folder, quantize="int8"))
    (entry,) = entries(tmp_path)
    data = bytearray(entry.read_bytes())
    data[-100] ^= 1
    entry.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged"):
        assert tokens(llmc.load(folder, quantize="int8")) == expected
    assert entries(tmp_path) != []
    assert tokens(llmc.load(folder, quantize="int8")) == expected


def test_a_file_that_has_just_been_written_is_not_trusted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_cache, "SETTLED_SECONDS", 3600.0)
    llmc.load(folder, quantize="int8")
    assert entries(tmp_path) == []
    assert list(tmp_path.glob("cache/llmc/known/*")) == []


def test_a_cache_that_cannot_be_written_does_not_matter(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tokens(llmc.load(folder, quantize="int8"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(pack_cache, "cache_folder", lambda: tmp_path / "file")
    with pytest.warns(UserWarning, match="not kept"):
        assert tokens(llmc.load(folder, quantize="int8")) == expected


def test_simultaneous_loads_pack_once(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys, llmc, llmc.runtime.user_cache as u; u.SETTLED_SECONDS = 0.0\n"
        "model = llmc.load(sys.argv[1], quantize='int4')\n"
        "print(model.generate([1, 2, 3], max_new_tokens=6, ignore_eos=True).tokens)"
    )
    llmc.load(folder, quantize="int8")
    started = [
        subprocess.Popen([sys.executable, "-P", "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {process.communicate(timeout=300)[0] for process in started}
    assert len(answers) == 1
    assert "[" in answers.pop()
    assert len(entries(tmp_path)) == 2
    assert sorted(path.name for path in tmp_path.glob("cache/llmc/packed/tmp*")) == []


def test_numbers_are_looked_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llmc.load(folder)
    looked: list[str] = []

    def look(name: str, *_: object) -> None:
        looked.append(name)

    monkeypatch.setattr(weights, "require_finite", look)
    llmc.load(folder)
    assert looked == []
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"
    file.write_bytes(data)
    llmc.load(folder)
    assert looked
    monkeypatch.undo()
    with pytest.raises(LlmcError, match="E0756"):
        llmc.load(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_tensors_are_judged_in_c(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(finite, "LEAST", 1)
    tensor = torch.randn(3, 4099, generator=torch.Generator().manual_seed(0)).to(dtype)
    tensor[1, 7] = torch.finfo(dtype).max
    assert finite.is_finite(tensor)
    for index, bad in ((0, float("nan")), (5000, float("inf")), (-1, float("-inf"))):
        broken = tensor.clone()
        broken.view(-1)[index] = bad
        assert not finite.is_finite(broken)
        with pytest.raises(LlmcError, match="E0756"):
            require_finite("w", broken)
    assert not finite.is_finite(tensor.double())
    assert not finite.is_finite(tensor.T)
