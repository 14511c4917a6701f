"""The commands that read a spec: check, list, plan, show, explain, schema."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import pytest

from llmc.compiler.schema import schema_text
from llmc.kernels.gpu.target import TARGETS
from llmc.specs.codes import CODES

from .command_line import TINY, child, run, values, wrong_spec


def test_check_says_ok() -> None:
    result = run("check", TINY, "llama2_7b")
    assert result.exit_code == 0
    assert result.stdout == (
        "ok  tiny  3 definitions  17,208 parameters\nok  llama2_7b  3 definitions  6,738,415,616 parameters\n"
    )


def test_check_checks_all(tmp_path: Path) -> None:
    result = run("check", wrong_spec(tmp_path), "no_such_spec", TINY)
    assert result.exit_code == 1
    assert result.stdout.startswith("ok  tiny")
    assert "wrong.yaml:" in result.stderr
    assert "^^^^" in result.stderr
    assert "E0140" in result.stderr
    assert "\x1b[" not in result.stderr


def test_check_as_json(tmp_path: Path) -> None:
    result = run("check", wrong_spec(tmp_path), TINY, "--json")
    assert result.exit_code == 1
    wrong, right = json.loads(result.stdout)
    assert wrong["ok"] is False
    assert wrong["diagnostics"][0]["line"] == 15
    assert right["parameters"] == 17208


def test_set_is_yaml() -> None:
    found = values("check", TINY, "--set", "num_layers=5", "--set", "num_layers=1")
    assert cast("list[dict[str, object]]", found)[0]["calls"] == 3
    assert run("check", TINY, "--set", "num_layer=5").exit_code == 1
    assert run("check", TINY, "--set", "num_layers=many").exit_code == 1


def test_check_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['llmc', 'check', 'llama2_7b']\nfrom llmc.tools.cli import main\n"
        "try: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert found.stderr.strip() == "False"


def test_help_imports_little() -> None:
    code = (
        "import sys; sys.argv = ['llmc', 'build', '--help']\nfrom llmc.tools.cli import main\n"
        "heavy = {'torch', 'networkx', 'jsonschema', 'rich', 'yaml'}\n"
        "try: main()\nfinally: print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert found.stderr.strip() == "[]"


def test_list() -> None:
    found = {one["name"]: one for one in cast("list[dict[str, object]]", values("list"))}
    assert found["llama2_7b"]["parameters"] == 6_738_415_616
    assert found["gpt2_small"]["parameters"] == 124_439_808
    assert found["llama2_7b"]["layers"] == 32
    assert found["llama2_7b"]["context"] == 4096


def test_plan_without_torch() -> None:
    found = child(
        "plan", "llama2_7b", "--bandwidth", "100", "--tflops", "1", "--ctx", "4k", "--dtype", "bfloat16", "--json"
    )
    plan = json.loads(found.stdout)
    assert plan["weight_bytes"] == 2 * 6_738_415_616
    assert plan["state_bytes"] == 2 * 32 * 4096 * 4096 * 2
    assert len(plan["states"]) == 32
    assert plan["decode_tokens_per_second"] == pytest.approx(6.5, abs=0.3)


def test_plan_table() -> None:
    text = run("plan", TINY, "--bandwidth", "100", "--tflops", "1").stdout
    assert "fits: " in text
    assert "memory-bound" in text
    assert "assumed" in text


def test_plan_for_a_gpu_that_is_elsewhere() -> None:
    small, large = (
        cast("dict[str, float]", values("plan", "llama2_7b", "--device", device, "--dtype", "float16", "--ctx", "1k"))
        for device in ("cuda:sm_86", "cuda:sm_90")
    )
    assert small["fits"]
    assert large["decode_tokens_per_second"] / small["decode_tokens_per_second"] == pytest.approx(3350 / 936)
    whole = cast("dict[str, float]", values("plan", "llama2_7b", "--device", "cuda:sm_86"))
    assert not whole["fits"]
    assert "RTX 3090" in run("plan", TINY, "--device", "cuda:sm_86").stdout


@pytest.mark.parametrize("target", TARGETS)
def test_every_known_architecture_is_a_device(target: str) -> None:
    pytest.importorskip("triton")
    found = run("explain", TINY, "attend", "--device", f"cuda:{target}", "--dtype", "bfloat16")
    assert found.exit_code == 0, found.stderr
    assert f"{target}: {TARGETS[target].shared_memory // 1024} KiB of shared memory a block" in found.stdout


def test_an_architecture_that_is_not_known() -> None:
    for command in ("explain", "plan", "build"):
        found = run(command, TINY, "--device", "cuda:sm_75")
        assert found.exit_code == 2
        assert all(f"cuda:{name}" in found.stderr for name in TARGETS)
    assert "none of cpu, cuda, cuda:sm_80" in run("plan", TINY, "--device", "rocm").stderr


def test_show_table() -> None:
    text = run("show", TINY).stdout
    assert "layer  model.layers.{0-2} x3" in text
    assert "    q_proj" in text
    assert "tiny.yaml:10" in text
    assert "17,208 (tied and shared tensors once)" in text


def test_show_text_is_python() -> None:
    ast.parse(run("show", TINY, "--format", "text").stdout)


def test_show_json() -> None:
    found = cast("dict[str, object]", values("show", TINY))
    assert found["parameters"] == 17208
    assert [part["name"] for part in cast("list[dict[str, object]]", found["parts"])] == ["entry", "layer", "exit"]


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_show_html_is_one_harmless_page(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    lines = TINY.read_text().splitlines()
    lines[2] = 'summary: "<script>alert(1)</script>"'
    path.write_text("\n".join(lines))
    output = tmp_path / "x.html"
    assert run("show", path, "--format", "html", "-o", output).exit_code == 0
    page = Page()
    page.feed(output.read_text())
    assert page.tags.count("script") == 1
    assert not page.addresses


def test_show_graphs() -> None:
    assert run("show", TINY, "--format", "mermaid").stdout.startswith("flowchart TD\n")
    dot = run("show", TINY, "--format", "dot").stdout
    assert dot.startswith('digraph "tiny" {')
    assert dot.count("{") == dot.count("}")


def test_show_difference() -> None:
    mixed = TINY.parent / "mixed.yaml"
    found = cast("dict[str, list[dict[str, object]]]", values("show", TINY, mixed))
    changes = {(change["kind"], change["name"]): change for change in found["changes"]}
    assert changes["param", "num_layers"] == {"kind": "param", "name": "num_layers", "left": "3", "right": "5"}
    assert changes["node", "layer_1/self_attn.attend"]["left"] is None
    assert "num_layers" in run("show", TINY, mixed).stdout


def test_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    text = run("explain", TINY, "layers.1.self_attn").stdout
    assert "self_attn.attend  attend_cached -> native" in text
    assert "mlp" not in text
    assert "in training" not in text
    on_a_gpu = run("explain", TINY, "layers.1.self_attn", "--device", "cuda:sm_90").stdout
    fused, trained = on_a_gpu.split("layer  x3  in training\n")
    assert "self_attn.attend  append_attend -> " in fused
    assert "self_attn.attend  attention -> triton_prefill  " in trained
    assert run("explain", TINY, "--device", "cuda:sm_90", "--phase", "train").stdout.count("linear_cross_entropy") == 1
    one_phase = cast("list[dict[str, object]]", values("explain", TINY, "attend", "--phase", "decode"))
    assert {entry["phase"] for entry in one_phase} == {"decode"}
    packed = run("explain", TINY, "down_proj", "--device", "cuda:sm_90", "--quantize", "int4").stdout
    assert "linear -> triton_int4  " in packed
    assert "in training" not in packed
    assert "down_proj  linear -> native" in run("explain", TINY, "down_proj", "--quantize", "int4").stdout
    monkeypatch.setenv("LLMC_NATIVE", "0")
    assert "self_attn.attend  attend_cached -> sdpa" in run("explain", TINY, "layers.1.self_attn").stdout
    assert run("explain", "e0118").stdout.startswith("E0118: duplicate key\n")
    assert cast("dict[str, object]", values("explain", "E0101"))["title"] == CODES["E0101"].title


def test_schema_is_the_committed_one() -> None:
    committed = (Path(__file__).parent.parent.parent / "specs" / "schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(), "run: llmc schema -o specs/schema.json"
    assert json.loads(run("schema").stdout) == json.loads(committed)
