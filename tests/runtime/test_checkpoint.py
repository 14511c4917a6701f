"""Reading and writing checkpoint folders: what is right loads and comes back, what is wrong is a diagnostic."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmc.runtime import atomic, checkpoint_writer
from llmc.runtime.checkpoint import TORCH_DTYPES, open_checkpoint
from llmc.runtime.checkpoint_writer import write_checkpoint
from llmc.runtime.finiteness import find_nonfinite, require_finite
from llmc.runtime.safetensors_header import DTYPE_BYTES
from llmc.specs.diagnostics import LlmcError

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def sample() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "model.embed.weight": torch.randn(7, 3),
        "half": torch.randn(5).half(),
        "brain": torch.randn(2, 3, 1).bfloat16(),
        "byte": torch.arange(3, dtype=torch.uint8),
        "flag": torch.tensor([True, False, True]),
        "long": torch.tensor(2**40),
        "empty": torch.empty(0, 4),
        "eight": torch.randn(3).to(torch.float8_e4m3fn),
    }


def sharded(folder: Path) -> dict[str, str]:
    layout = {name: SHARDS[index % 2] for index, name in enumerate(sorted(sample()))}
    write_checkpoint(folder, sample(), layout)
    return layout


def assert_same(folder: Path, expected: Mapping[str, Tensor]) -> None:
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.entries.keys() == expected.keys()
        for name, tensor in expected.items():
            entry = checkpoint.entries[name]
            assert (entry.name, entry.shape, entry.dtype) == (name, tuple(tensor.shape), tensor.dtype)
            actual = checkpoint.read(name)
            assert actual.shape == tensor.shape
            assert torch.equal(actual.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def edit_index(folder: Path, name: str, file: str | None) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    if file is None:
        del index["weight_map"][name]
    else:
        index["weight_map"][name] = file
    path.write_text(json.dumps(index))


def test_dtypes_are_described() -> None:
    assert TORCH_DTYPES.keys() == DTYPE_BYTES.keys()
    assert all(dtype.itemsize == DTYPE_BYTES[name] for name, dtype in TORCH_DTYPES.items())


def test_single_file_round_trip(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, sample(), metadata={"format": "pt", "é": "ü"})
    assert_same(tmp_path, sample())
    assert load_file(tmp_path / "model.safetensors").keys() == sample().keys()
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.metadata == {"format": "pt", "é": "ü"}
        assert set(checkpoint.layout.values()) == {"model.safetensors"}


def test_file_of_the_library(tmp_path: Path) -> None:
    save_file(sample(), tmp_path / "model.safetensors")
    assert_same(tmp_path, sample())


def test_sharded_round_trip(tmp_path: Path) -> None:
    layout = sharded(tmp_path / "a")
    with open_checkpoint(tmp_path / "a") as checkpoint:
        assert dict(checkpoint.layout) == layout
        tensors = {name: checkpoint.read(name) for name in checkpoint.entries}
        write_checkpoint(tmp_path / "b", tensors, checkpoint.layout)
    assert_same(tmp_path / "b", sample())
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_reading_is_lazy_and_shares_the_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {"big": torch.zeros(1 << 20), "small": torch.ones(2)})
    checkpoint = open_checkpoint(tmp_path)
    first, second = checkpoint.read("big"), checkpoint.read("big")
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    before = (tmp_path / "model.safetensors").read_bytes()
    first[0] = 5
    assert (tmp_path / "model.safetensors").read_bytes() == before
    checkpoint.close()
    checkpoint.close()
    assert float(first[0]) == 5
    with pytest.raises(RuntimeError, match="closed"):
        checkpoint.read("small")


def test_saving_over_the_file_that_is_mapped(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, sample())
    with open_checkpoint(tmp_path) as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint.entries}
        write_checkpoint(tmp_path, tensors, checkpoint.layout)
    assert_same(tmp_path, sample())


def test_a_file_that_is_replaced_before_it_is_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {"a": torch.zeros(4), "b": torch.ones(4)})
    with open_checkpoint(tmp_path) as checkpoint:
        write_checkpoint(tmp_path, {"a": torch.zeros(2), "b": torch.ones(6)})
        with pytest.raises(LlmcError, match="E0753"):
            checkpoint.read("a")


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_files_of_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beyond: int) -> None:
    monkeypatch.setattr(checkpoint_writer, "HUGE_PAGE", 512)
    sizes = {"a": 700, "b": 1, "c": 0, "d": 2048 + beyond, "e": 300}
    tensors = {name: torch.randint(0, 256, (size,), dtype=torch.uint8) for name, size in sizes.items()}
    write_checkpoint(tmp_path, tensors)
    assert_same(tmp_path, tensors)
    pieces = [tensor.numpy().data for tensor in tensors.values()]
    blocks = [bytes(block) for block in checkpoint_writer.in_blocks(pieces)]
    assert b"".join(blocks) == b"".join(pieces)
    assert all(len(block) % 512 == 0 for block in blocks[:-1])


def test_tied_views_and_strides(tmp_path: Path) -> None:
    fused = torch.randn(6, 4)
    tensors = {"q": fused[:4], "k": fused[4:], "all": fused, "turned": fused.t(), "tied": fused}
    write_checkpoint(tmp_path, tensors)
    assert_same(tmp_path, {name: tensor.contiguous() for name, tensor in tensors.items()})


def test_layouts_replace_one_another(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, sample())
    sharded(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert_same(tmp_path, sample())
    write_checkpoint(tmp_path, {"x": torch.ones(1)})
    assert_same(tmp_path, {"x": torch.ones(1)})


@pytest.mark.parametrize("failing", range(1, 4))
def test_failing_nth_file_never_leaves_a_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    sharded(tmp_path)
    calls = 0
    real = os.replace

    def replace(old: Path, new: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(28, "No space left on device")
        real(old, new)

    monkeypatch.setattr(atomic.os, "replace", replace)
    changed = {name: tensor.clone() for name, tensor in sample().items()}
    layout = {name: SHARDS[index % 2] for index, name in enumerate(sorted(changed))}
    with pytest.raises(LlmcError, match="E0757"):
        write_checkpoint(tmp_path, changed, layout)
    with pytest.raises(LlmcError, match="E0751"):
        open_checkpoint(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_writer_refuses(tmp_path: Path) -> None:
    one = {"w": torch.ones(1)}
    for tensors, layout, code in (
        (one, {}, "E0755"),
        (one, {"w": "a.safetensors", "v": "a.safetensors"}, "E0755"),
        (one, {"w": "../a.safetensors"}, "E0750"),
        (one, {"w": "a/b.safetensors"}, "E0750"),
        (one, {"w": "a.bin"}, "E0750"),
        ({"w": torch.ones(1), "v": torch.ones(1)}, {"w": "model.safetensors", "v": "a.safetensors"}, "E0755"),
        ({"w": torch.ones(1, device="meta")}, None, "E0758"),
        ({"w": torch.ones(2, 2).to_sparse()}, None, "E0758"),
        ({"w": torch.ones(1, dtype=torch.complex128)}, None, "E0758"),
    ):
        with pytest.raises(LlmcError, match=code):
            write_checkpoint(tmp_path / "out", tensors, layout)
    assert not (tmp_path / "out").exists()


def test_unknown_tensor(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, sample())
    with (
        open_checkpoint(tmp_path) as checkpoint,
        pytest.raises(LlmcError, match=r'did you mean "model\.embed\.weight"'),
    ):
        checkpoint.read("model.embd.weight")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "a.pt", "last.ckpt", "x.PKL"])
def test_pickle_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    with pytest.raises(LlmcError, match=r"E0754.*convert"):
        open_checkpoint(tmp_path)


def test_nothing_to_open(tmp_path: Path) -> None:
    with pytest.raises(LlmcError, match=r"E0751.*neither"):
        open_checkpoint(tmp_path)
    save_file({"x": torch.ones(1)}, tmp_path / "consolidated.safetensors")
    with pytest.raises(LlmcError, match=r"it holds 'consolidated\.safetensors'"):
        open_checkpoint(tmp_path)
    with pytest.raises(LlmcError, match=r"E0751.*no folder"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(LlmcError, match=r"E0751.*is a file"):
        open_checkpoint(tmp_path / "consolidated.safetensors")


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("../model.safetensors", "E0750"), ("/etc/passwd", "E0750"), ("a/../../b.safetensors", "E0750"),
        ("pytorch_model.bin", "E0750"), ("..", "E0750"), ("", "E0750"), ("a\0.safetensors", "E0750"),
        ("model-00003-of-00002.safetensors", "E0751"), (SHARDS[1], "E0755"), (SHARDS[0], "E0755"), (None, "E0755"),
        ("link.safetensors", "E0750"), ("alias.safetensors", "E0755"), ("fifo.safetensors", "E0750"),
    ],
)  # fmt: skip
def test_hostile_index(tmp_path: Path, file: str | None, code: str) -> None:
    folder = tmp_path / "model"
    layout = sharded(folder)
    save_file(sample(), tmp_path / "outside.safetensors")
    (folder / "link.safetensors").symlink_to("../outside.safetensors")
    (folder / "alias.safetensors").symlink_to(layout["byte"])
    os.mkfifo(folder / "fifo.safetensors")
    edit_index(folder, "byte" if layout["byte"] != file else "brain", file)
    with pytest.raises(LlmcError, match=code):
        open_checkpoint(folder)


@pytest.mark.parametrize("index", [{}, [], {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"a": 1}}])
def test_index_of_another_shape(tmp_path: Path, index: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LlmcError, match=r"E075[02]"):
        open_checkpoint(tmp_path)


def test_all_disagreements_at_once(tmp_path: Path) -> None:
    layout = sharded(tmp_path)
    edit_index(tmp_path, "byte", None)
    edit_index(tmp_path, "ghost", layout["brain"])
    with pytest.raises(LlmcError) as caught:
        open_checkpoint(tmp_path)
    text = [diagnostic.message for diagnostic in caught.value.diagnostics]
    assert len(text) == 2
    assert "'ghost' should be in" in text[0]
    assert "'byte'; the index does not list it" in text[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_nonfinite(dtype: torch.dtype) -> None:
    tensor = torch.ones(3, 5)
    assert find_nonfinite(tensor.to(dtype)) is None
    tensor[1, 2] = float("nan")
    tensor[2, 0] = float("inf")
    tensor[2, 4] = -float("inf")
    found = find_nonfinite(tensor.to(dtype))
    assert found is not None
    assert (found.nan, found.inf, found.first) == (1, 2, 7)
    with pytest.raises(
        LlmcError, match=r"E0756.*'w' \[3, 5\] holds 1 NaN and 2 infinite values, the first at element 7"
    ):
        require_finite("w", tensor.to(dtype))


def test_finite_without_looking() -> None:
    for tensor in (torch.empty(0), torch.ones(2, device="meta"), torch.ones(2, dtype=torch.int8), torch.tensor(True)):
        assert find_nonfinite(tensor) is None
    assert find_nonfinite(torch.tensor([1, complex(0, float("nan"))])) is not None
    assert find_nonfinite(torch.tensor(float("inf"))) is not None
