"""The commands that build a program or run one: build, verify, generate, import."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from llmc.specs.source import plain
from llmc.specs.yaml_reader import read_yaml

from .command_line import MAIN, TINY, child, run, values


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_build_writes_its_folder(tmp_path: Path) -> None:
    result = run("build", TINY, "-o", tmp_path / "out", "--set", "num_layers=2")
    assert result.exit_code == 0
    assert set(files(tmp_path / "out")) == {"manifest.json", "spec.yaml", "program.py", "program.c", "plan.json"}
    ast.parse((tmp_path / "out" / "program.py").read_text())
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["definitions"] == {"entry": 1, "layer": 2, "exit": 1}
    assert "Next: llmc generate" in result.stdout
    assert "machine code     1 region, 4 of 4 calls" in result.stdout
    assert "kernels decode   native x" in result.stdout
    for phase in (
        "load",
        "check",
        "resolve",
        "expand",
        "infer",
        "import torch",
        "lower",
        "fuse_projections",
        "select",
        "machine code",
        "emit",
    ):
        assert f"\n  {phase} " in f"\n{result.stderr}"


def test_build_log_has_no_gap(tmp_path: Path) -> None:
    found = child("build", str(TINY), "-o", str(tmp_path / "out"))
    *phases, total = [float(line.split()[-2]) for line in found.stderr.strip().splitlines()]
    assert sum(phases) >= 0.95 * total - 0.02


def test_built_spec_is_the_spec(tmp_path: Path) -> None:
    run("build", "llama3_1_8b", "-o", tmp_path / "a", "--set", "num_layers=2")
    run("build", tmp_path / "a" / "spec.yaml", "-o", tmp_path / "b")
    run("build", tmp_path / "a", "-o", tmp_path / "c")
    first, second = (
        json.loads((tmp_path / "a/plan.json").read_text()),
        json.loads((tmp_path / "b/plan.json").read_text()),
    )
    assert first == second
    assert (tmp_path / "b/plan.json").read_text() == (tmp_path / "c/plan.json").read_text()
    params = cast(
        "dict[str, object]", plain(read_yaml((tmp_path / "a/spec.yaml").read_text(), "x").entries["params"].value)
    )
    assert params["num_layers"] == 2
    assert params["rms_norm_eps"] == 1e-5


def test_builds_are_byte_identical(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "2")):
        (tmp_path / name).mkdir()
        script = f"import os; os.chdir({str(tmp_path / name)!r}); {MAIN}"
        subprocess.run(
            [sys.executable, "-P", "-c", script, "build", "mistral_tiny"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
    assert files(tmp_path / "a/build/mistral_tiny") == files(tmp_path / "b/build/mistral_tiny")


def test_build_as_json(tmp_path: Path) -> None:
    found = cast("dict[str, object]", values("build", TINY, "-o", tmp_path / "out"))
    assert found["parameters"] == 17208
    assert "import torch" in cast("dict[str, float]", found["seconds"])


def test_verify_says_what_it_compared(tmp_path: Path) -> None:
    result = run("build", TINY, "-o", tmp_path / "out", "--verify")
    assert result.exit_code == 0
    assert "9 passes on 13 random tokens" in result.stdout
    assert "times the reference's own error" in result.stdout
    assert "model.layers.*.self_attn.attend:out" in result.stdout
    assert "num_layers=2" in result.stdout


def test_verify_finds_a_broken_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmc.compiler.lowered import Module, is_op
    from llmc.tools import verify_program

    def swap_operands(module: Module) -> int:
        for lowered in module.definitions.values():
            for node in lowered.graph.nodes:
                if is_op(node, "rope_apply"):
                    node.replace_all_uses_with(node.kwargs["x"])
        return 1

    monkeypatch.setattr(verify_program, "PASSES", (*verify_program.PASSES, swap_operands))
    result = run("build", TINY, "-o", tmp_path / "out", "--verify")
    assert result.exit_code == 1
    assert "E0605" in result.stderr
    assert "swap_operands" in result.stderr
    assert not (tmp_path / "out").exists()


def test_verify_names_a_wrong_kernel_and_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmc import build
    from llmc.kernels.attention import native

    if build("llama_tiny").native is None:
        pytest.skip("there is no machine code here")
    monkeypatch.setattr(native, "ATTEND", f"a.scale *= 1.01f;\n{native.ATTEND}")
    result = run("build", "llama_tiny", "-o", tmp_path / "out", "--verify")
    assert result.exit_code == 1
    assert "E0605" in result.stderr
    assert "self_attn.attend:out (attend_cached, native, " in result.stderr
    assert "llama.yaml:" in result.stderr
    assert "LLMC_NATIVE=0 runs the program without machine code" in result.stderr
    assert not (tmp_path / "out").exists()


def test_strict_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("build", TINY, "-o", tmp_path / "a", "--strict-kernels").exit_code == 0
    monkeypatch.setenv("LLMC_KERNELS", "0")
    result = run("build", TINY, "-o", tmp_path / "b", "--strict-kernels")
    assert result.exit_code == 1
    assert "E0606" in result.stderr
    assert "kernels are switched off" in result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with random weights."""
    from llmc import load

    path = tmp_path_factory.mktemp("hf")
    small = {
        "num_layers": 2,
        "hidden_size": 24,
        "num_heads": 2,
        "intermediate_size": 40,
        "vocab_size": 31,
        "max_seq_len": 64,
    }
    load("llama", params=small).save(path)
    return path


def test_generate_ids(folder: Path) -> None:
    plain_run = run("generate", folder, "-p", "1,2,3", "-n", "5")
    assert plain_run.exit_code == 0, plain_run.stderr
    tokens = [int(token) for token in plain_run.stdout.strip().split(",")]
    assert len(tokens) <= 5
    for word in ("prompt", "generated", "first token", "peak memory", "seed", "finished by"):
        assert word in plain_run.stderr
    found = cast("dict[str, object]", values("generate", folder, "-p", "1,2,3", "-n", "5"))
    assert found["tokens"] == tokens
    piped = run("generate", folder, "-p", "-", "-n", "5", input="1,2,3\n")
    assert piped.stdout == plain_run.stdout


def test_build_with_weights_generates(folder: Path, tmp_path: Path) -> None:
    built = tmp_path / "out"
    result = run("build", folder, "-o", built, "--verify")
    assert result.exit_code == 0, result.stderr
    assert "with the weights of" in result.stdout
    assert not Path(json.loads((built / "manifest.json").read_text())["weights"]).is_absolute()
    assert (
        run("generate", built, "-p", "1,2", "-n", "4").stdout == run("generate", folder, "-p", "1,2", "-n", "4").stdout
    )


def test_verify_measures_nodes_on_packed_weights(folder: Path, tmp_path: Path) -> None:
    result = run("build", folder, "-o", tmp_path / "out", "--verify", "--quantize", "int8", "--json")
    if "E0861" in result.stderr:
        pytest.skip("there is no machine code here")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert f"nodes in int8 with the weights of {folder}" in " ".join(found["verified"])
    assert {one["name"] for one in found["passes"]} >= {"fuse_projections", "eliminate_dead"}
    linear = [one for one in found["nodes"] if one["op"] == "linear"]
    assert {one["kernel"] for one in linear} == {"native"}
    assert max(one["error"] for one in linear) < 1e-6


def test_build_refuses_other_weights(folder: Path, tmp_path: Path) -> None:
    result = run("build", "llama_tiny", "--weights", folder, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "error[E07" in result.stderr
    assert not (tmp_path / "out").exists()


def test_random_generates() -> None:
    result = run("generate", TINY, "--random", "-p", "1,2", "-n", "3", "--logprobs", "2", "--seed", "7")
    assert result.exit_code == 0
    assert "seed          7" in result.stderr
    assert run("generate", TINY, "--random", "-p", "1,2", "-n", "3", "--seed", "7").stdout == result.stdout


def test_import(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.yaml"
    assert run("import", folder, "-o", output).exit_code == 0
    spec = cast("dict[str, object]", plain(read_yaml(output.read_text(), "mine.yaml")))
    params = cast("dict[str, object]", spec["params"])
    assert spec["name"] == "mine"
    assert spec["extends"] == "llama"
    assert params["num_layers"] == 2
    assert "head_dim" not in params
    assert run("check", output).exit_code == 0


def test_import_names_what_it_does_not_understand(folder: Path, tmp_path: Path) -> None:
    config = {**json.loads((folder / "config.json").read_text()), "shiny_new_key": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = run("import", tmp_path)
    assert result.exit_code == 1
    assert "shiny_new_key" in result.stderr
