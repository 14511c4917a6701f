"""Models that an earlier process compiled: the same answers, the same public face, and nothing stale or foreign."""

from __future__ import annotations

import copy
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import llmc
from llmc.compiler.native.outline import outline
from llmc.runtime import basis, own_sources, user_cache
from llmc.runtime.locate import Request
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.executor import NativeExecutor
from llmc.runtime.tree import own_parameters
from llmc.specs.diagnostics import LlmcError

PARAMS = {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 96, "vocab_size": 61}
SPEC = "extends: base.yaml\nname: child\n"
BASE = "extends: llama\nname: base\nparams: {num_layers: 2, hidden_size: 64, num_heads: 4, vocab_size: 61}\n"


@pytest.fixture(autouse=True)
def folder(own_cache: Path, tmp_path: Path) -> Path:
    """A checkpoint, beside a cache of the test's own."""
    llmc.load("llama", params=PARAMS).save(tmp_path / "model")
    return tmp_path / "model"


def entries(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("cache/llmc/models/*.json"))


def tokens(model: LanguageModel) -> list[int]:
    return model.generate([1, 2, 3], max_new_tokens=6, ignore_eos=True).tokens


ASKED: dict[str, Callable[[Any], object]] = {
    "a layer": lambda model: model.model.layers[1].mlp,
    "children": lambda model: list(model.children()),
    "a copy": lambda model: tokens(copy.deepcopy(model)),
    "a new parameter": lambda model: model.register_parameter("x", None),
    "another layer": lambda model: setattr(model, "lm_head", torch.nn.Linear(64, 61, bias=False)),
    "a pass without a cache": lambda model: model(torch.tensor([[1, 2, 3]])),
    "another dtype": lambda model: model.to(torch.float64),
    "names": lambda model: dir(model),
}


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_second_load_compiles_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None) -> None:
    first = llmc.load(folder, dtype=dtype)
    assert not first.is_put_off
    monkeypatch.setattr("llmc.runtime.load.compile_model", lambda *_, **__: pytest.fail("compiled again"))  # type: ignore[arg-type]
    again = llmc.load(folder, dtype=dtype)
    assert again.is_put_off
    assert tokens(again) == tokens(first)
    assert (again.dtype, again.device, again.max_seq_len) == (first.dtype, first.device, first.max_seq_len)
    ids = torch.tensor([[1, 2, 3]])
    cached = again(ids, cache=again.new_cache(1, 8))
    assert torch.equal(cached, first(ids, cache=first.new_cache(1, 8)))
    assert again.is_put_off, "running needs no tree"
    assert not again.eval().training


def test_what_is_kept_equals_what_is_compiled(folder: Path) -> None:
    first, again = llmc.load(folder), llmc.load(folder)
    executor = again.executor()
    assert isinstance(executor, NativeExecutor)
    kept = executor.outline
    assert first.program.native is not None
    assert kept == outline(first.program.module, first.program.native, first.program.states)
    assert again.facts == first.facts


def test_the_tree_is_there_when_it_is_asked_for(folder: Path) -> None:
    first, again = llmc.load(folder), llmc.load(folder)
    expected = tokens(first)
    assert tokens(again) == expected
    executor = again.executor()
    assert again.is_put_off
    found, wanted = again.state_dict(), first.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], one) for name, one in wanted.items())  # type: ignore[arg-type]
    assert repr(again) == repr(first)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in first.parameters()]
    assert not any(module.training for module in again.modules())
    assert again.executor() is executor, "nothing has changed, so nothing is bound again"
    with torch.no_grad():
        again.get_parameter("lm_head.weight").zero_()
    assert tokens(again) != expected, "the fused view follows"
    assert tokens(llmc.load(folder)) == expected, "and the file does not"


@pytest.mark.parametrize("what", ASKED)
def test_whatever_needs_the_tree_grows_it(folder: Path, what: str) -> None:
    llmc.load(folder)
    model = llmc.load(folder)
    assert model.is_put_off
    ASKED[what](model)
    assert not model.is_put_off
    assert len(list(model.parameters())) == len(list(llmc.load("llama", params=PARAMS).parameters()))
    tokens(model)


def test_a_recalled_model_trains(folder: Path) -> None:
    llmc.load(folder)
    model = llmc.load(folder)
    before = tokens(model)
    model.train()
    ids = torch.arange(8)[None]
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(3):
        optimiser.zero_grad()
        logits = cast("torch.Tensor", model(ids))
        torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()  # pyright: ignore[reportUnknownMemberType]
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]
    assert tokens(model) != before


def test_packed_models_are_recalled(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_cache, "SETTLED_SECONDS", 1e-3)  # the checkpoint has settled, what is packed now has not
    time.sleep(0.01)
    expected = tokens(llmc.load(folder, quantize="int8"))
    again = llmc.load(folder, quantize="int8")
    assert again.is_put_off
    assert again.quantize == "int8"
    assert tokens(again) == expected
    with pytest.raises(LlmcError, match="E0859"):
        again.state_dict()
    assert again.is_put_off
    below = [parameter for module in list(again.modules())[1:] for parameter in own_parameters(module).values()]
    assert below
    assert all(parameter.is_meta for parameter in below)
    (packed,) = tmp_path.glob("cache/llmc/packed/*/model.safetensors")
    assert not llmc.load(folder, quantize="ternary").is_put_off
    shutil.rmtree(packed.parent)
    assert not llmc.load(folder, quantize="int8").is_put_off
    assert tokens(llmc.load(folder, quantize="int8")) == expected


def test_other_requests_are_other_entries(folder: Path, tmp_path: Path) -> None:
    llmc.load(folder)
    requests = [{"params": {"rope_theta": 500.0}}, {"params": {"rope_theta": 600.0}}, {"dtype": "bfloat16"}]
    for number, request in enumerate(requests):
        assert not llmc.load(folder, **request).is_put_off  # type: ignore[arg-type]
        assert len(entries(tmp_path)) == number + 2
    assert all(llmc.load(folder, **request).is_put_off for request in requests)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["bit", "cut", "empty", "mode", "link", "foreign"])
def test_a_damaged_or_foreign_entry_is_made_again(folder: Path, tmp_path: Path, what: str) -> None:
    expected = tokens(llmc.load(folder))
    (entry,) = entries(tmp_path)
    data = entry.read_bytes()
    if what == "mode":
        entry.chmod(0o666)
    elif what == "link":
        entry.rename(tmp_path / "elsewhere")
        entry.symlink_to(tmp_path / "elsewhere")
    else:
        middle = len(data) // 2
        changed = {
            "bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "cut": data[:-9],
            "empty": b"",
        }
        entry.write_bytes(changed.get(what, data.replace(b'"Remembered"', b'"Path"')))
    again = llmc.load(folder)
    assert not again.is_put_off
    assert tokens(again) == expected
    assert llmc.load(folder).is_put_off, "it was written anew"


def test_other_sources_of_llmc_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llmc.load(folder)
    assert llmc.load(folder).is_put_off
    state = basis.sources_state()
    monkeypatch.setattr(basis, "sources_state", lambda: state + "x")
    assert not llmc.load(folder).is_put_off
    assert llmc.load(folder).is_put_off
    monkeypatch.setenv("LLMC_PASSES", "0")
    assert not llmc.load(folder).is_put_off


def test_sources_that_changed_after_the_start_are_not_rested_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llmc.load(folder)
    monkeypatch.setattr(own_sources, "_IMPORTED", 0.0)
    assert not llmc.load(folder).is_put_off


def test_edits_of_a_folder_are_noticed(folder: Path) -> None:
    llmc.load(folder)
    assert llmc.load(folder).is_put_off
    config = folder / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "rms_norm_eps": 0.25}))
    changed = llmc.load(folder)
    assert not changed.is_put_off
    assert changed.program.spec.environment["rms_norm_eps"] == 0.25
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert llmc.load(folder).folder_eos_ids == (7,)
    llmc.load("llama", params=PARAMS, seed=1).save(folder)
    assert tokens(llmc.load(folder)) == tokens(llmc.load("llama", params=PARAMS, seed=1))


def test_edits_of_a_spec_and_of_what_it_extends_are_noticed(folder: Path, tmp_path: Path) -> None:
    spec, base = tmp_path / "child.yaml", tmp_path / "base.yaml"
    spec.write_text(SPEC)
    base.write_text(BASE.replace("vocab_size: 61", "vocab_size: 61, intermediate_size: 96"))
    first = llmc.load(spec, folder)
    assert not first.is_put_off
    assert llmc.load(spec, folder).is_put_off
    base.write_text(base.read_text().replace("}", ", rope_theta: 3.5}"))
    changed = llmc.load(spec, folder)
    assert not changed.is_put_off
    assert changed.program.spec.environment["rope_theta"] == 3.5
    assert llmc.load(spec, folder).is_put_off
    spec.write_text(SPEC + "params: {rope_theta: 4.5}\n")
    assert llmc.load(spec, folder).program.spec.environment["rope_theta"] == 4.5
    assert llmc.load(spec, folder).is_put_off
    (tmp_path / "llama.yaml").write_text("extends: nothing_of_that_name\n")
    with pytest.raises(LlmcError, match="E0140"):
        llmc.load(spec, folder)


def test_a_mistake_that_shows_later_has_its_line(tmp_path: Path) -> None:
    params = {**PARAMS, "num_kv_heads": 4, "mask_token_id": 99}
    llmc.load("llada", params=params).save(tmp_path / "diffuse")
    messages: list[str] = []
    for is_recalled in (False, True):
        model = llmc.load("llada", tmp_path / "diffuse", params)
        assert model.is_put_off is is_recalled
        with pytest.raises(LlmcError, match=r"llada\.yaml:\d+:\d+: E0810") as caught:
            model.generate([1, 2], max_new_tokens=2)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_model_is_not_compiled_of_what_has_changed(folder: Path) -> None:
    llmc.load(folder)
    model = llmc.load(folder)
    expected = tokens(model)
    (folder / "generation_config.json").write_text("{}")
    assert tokens(model) == expected
    for _ in range(2):
        with pytest.raises(LlmcError, match="E0759"):
            list(model.parameters())
    assert tokens(model) == expected


def test_a_request_means_the_same_from_any_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    llmc.load("model")
    model = llmc.load("model")
    assert model.is_put_off
    monkeypatch.chdir("/")
    assert model.program.spec.name == "llama"
    request = Request(target="llama", weights=None, params={}, device="cpu", dtype=None, quantize=None)
    assert request.absolute().target == "llama"


def _in_child(folder: Path, queue: multiprocessing.SimpleQueue[list[int]]) -> None:
    for _ in range(2):
        queue.put(tokens(llmc.load(folder)))


def test_eight_simultaneous_loads(folder: Path, tmp_path: Path) -> None:
    expected = tokens(llmc.load("llama", params=PARAMS))
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.SimpleQueue[list[int]] = context.SimpleQueue()
    children = [context.Process(target=_in_child, args=(folder, queue)) for _ in range(8)]
    for child in children:
        child.start()
    answers = [queue.get() for _ in range(16)]
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 8
    assert answers == [expected] * 16
    assert len(list(tmp_path.glob("cache/llmc/models/*"))) == 1, "one entry, and nothing half-written"
    assert llmc.load(folder).is_put_off
