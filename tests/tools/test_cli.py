"""The command line: what each command prints, its exit statuses, and that nothing ends in a traceback."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import pytest
import torch
from click.testing import CliRunner, Result

from llmc.compiler.schema import schema_text
from llmc.specs.codes import CODES
from llmc.specs.source import plain
from llmc.specs.yaml_reader import read_yaml
from llmc.tools.cli import COMMANDS, cli

HERE = Path(__file__).parent
TINY = HERE.parent / "compiler" / "emit" / "tiny.yaml"
MAIN = "from llmc.tools.cli import main; main()"


def run(*arguments: str | Path, input: str | None = None) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], input=input, prog_name="llmc")
    assert "Traceback" not in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def values(*arguments: str | Path) -> object:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def child(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", MAIN, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


def wrong_spec(folder: Path) -> Path:
    path = folder / "wrong.yaml"
    path.write_text(TINY.read_text().replace("features: hidden_size}", "features: hiden_size}", 1))
    return path


# --- the group ---------------------------------------------------------------------------------------------------


def test_help_names_every_command() -> None:
    text = run("--help").stdout
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name: str) -> None:
    result = run(name, "ls", "--help") if name == "cache" else run(name, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["chek"],
        ["check"],
        ["check", "llama", "--set", "novalue"],
        ["check", "llama", "--set", "a=[1"],
        ["build", "llama", "--dtype", "float8"],
        ["build", "llama", "--device", "tpu"],
        ["plan", "llama", "--ctx", "4x"],
        ["plan", "llama", "--ctx", "0"],
        ["show", "llama_tiny", "gpt2_tiny", "--format", "dot"],
        ["explain", "E9999"],
        ["generate", "--random", "--weights", "x"],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_unknown_command_has_a_remedy() -> None:
    assert 'did you mean "check"' in run("chek").stderr


def test_version() -> None:
    assert run("--version").stdout.startswith("llmc 0")


# --- check -------------------------------------------------------------------------------------------------------


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


# --- how commands end --------------------------------------------------------------------------------------------


def test_exit_statuses(tmp_path: Path) -> None:
    assert child("check", str(TINY)).returncode == 0
    assert child("check", str(wrong_spec(tmp_path))).returncode == 1
    assert child("check").returncode == 2
    assert child("build", str(TINY), "--quantize", "int8").returncode == 3
    (tmp_path / "file").write_text("")
    assert run("build", TINY, "-o", tmp_path / "file" / "out").exit_code == 1


def test_diagnostics_as_json_go_to_stdout() -> None:
    result = run("build", "lama2_7b", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["diagnostics"][0]["code"] == "E0140"


def test_broken_pipe_is_quiet() -> None:
    command = f'"{sys.executable}" -P -c "{MAIN}" schema | head -c 10'
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert found.stderr == ""


def test_full_disk_is_no_traceback() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-P", "-c", MAIN, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert found.returncode == 4
    assert "Traceback" not in found.stderr


def test_no_color_where_it_is_not_wanted(tmp_path: Path) -> None:
    assert "\x1b" not in child("check", str(wrong_spec(tmp_path)), NO_COLOR="1").stderr


def test_a_bug_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("x\x1b[31m")

    monkeypatch.setattr("llmc.compiler.pipeline.read", broken)
    result = run("check", TINY)
    assert result.exit_code == 1
    assert "bug in llmc" in result.stderr
    assert "\x1b" not in result.stderr


def test_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmc.compiler.pipeline.read", interrupted)
    assert run("check", TINY).exit_code == 130


def test_exhausted_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("llmc.compiler.pipeline.read", exhausted)
    assert run("check", TINY).exit_code == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", ""],
        ["check", "a\0b"],
        ["check", "/"],
        ["check", "specs"],
        ["build", "/dev/null"],
        ["show", str(TINY), "/nowhere.yaml"],
        ["plan", "llama", "--ctx", "1M"],
        ["explain", str(TINY), "no.such.node"],
        ["generate", str(TINY)],
        ["generate", str(TINY), "--random", "-p", ""],
        ["generate", str(TINY), "--random", "-p", "text"],
        ["generate", str(TINY), "--random", "-p", "1,2", "-n", "100"],
        ["generate", str(TINY), "--random", "-p", "1,99"],
        ["generate", str(TINY), "--random", "-p", "1", "--top-p", "2"],
        ["generate", str(TINY), "--random", "-p", "1", "--temperature", "nan"],
        ["generate", str(TINY), "--random", "-p", "1", "--seed", "-1"],
        ["generate", str(TINY), "--weights", "/nowhere"],
        ["import", "/nowhere"],
        ["bench", "bert_tiny"],
        ["show", str(TINY), "-o", "/nowhere/x"],
    ],
    ids=" ".join,
)
def test_wrong_input_is_a_diagnostic(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code in (1, 4)
    assert "error[E" in result.stderr


# --- list, plan, show, explain, schema ---------------------------------------------------------------------------


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


def test_explain() -> None:
    text = run("explain", TINY, "layers.1.self_attn").stdout
    assert "self_attn.attend  attend_cached -> sdpa" in text
    assert "mlp" not in text
    assert run("explain", "e0118").stdout.startswith("E0118: duplicate key\n")
    assert cast("dict[str, object]", values("explain", "E0101"))["title"] == CODES["E0101"].title


def test_schema_is_the_committed_one() -> None:
    committed = (HERE.parent.parent / "specs" / "schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(), "run: llmc schema -o specs/schema.json"
    assert json.loads(run("schema").stdout) == json.loads(committed)


# --- build -------------------------------------------------------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_build_writes_its_folder(tmp_path: Path) -> None:
    result = run("build", TINY, "-o", tmp_path / "out", "--set", "num_layers=2")
    assert result.exit_code == 0
    assert set(files(tmp_path / "out")) == {"manifest.json", "spec.yaml", "program.py", "plan.json"}
    ast.parse((tmp_path / "out" / "program.py").read_text())
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["definitions"] == {"entry": 1, "layer": 2, "exit": 1}
    assert "Next: llmc generate" in result.stdout
    assert "attend_cached=sdpa x2" in result.stdout
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
    assert "8 passes on 13 random tokens" in result.stdout
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


def test_strict_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("build", TINY, "-o", tmp_path / "a", "--strict-kernels").exit_code == 0
    monkeypatch.setenv("LLMC_KERNELS", "0")
    result = run("build", TINY, "-o", tmp_path / "b", "--strict-kernels")
    assert result.exit_code == 1
    assert "E0606" in result.stderr
    assert "kernels are switched off" in result.stderr


# --- with weights ------------------------------------------------------------------------------------------------


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


def test_bench() -> None:
    text = run("bench", TINY, "--prompt", "8", "--tokens", "4", "--repetitions", "2").stdout
    header, rule, prefill, decode = text.strip().splitlines()
    assert header.count("|") == rule.count("|") == prefill.count("|") == decode.count("|")
    assert "pp8" in prefill
    assert "tg4" in decode
    assert "±" in decode


# --- the machine -------------------------------------------------------------------------------------------------


def test_doctor() -> None:
    found = cast("dict[str, dict[str, object]]", values("doctor"))
    assert found["packages"]["torch"] == torch.__version__ or str(found["packages"]["torch"]) in torch.__version__
    assert cast("float", found["cpu"]["cores"]) > 0
    assert run("doctor").exit_code == 0


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "0 files" in run("cache", "ls").stdout
    assert run("cache", "clear").exit_code == 0
    (tmp_path / "llmc" / "a").mkdir(parents=True)
    (tmp_path / "llmc" / "a" / "b").write_bytes(b"123")
    (tmp_path / "kept").write_text("")
    (tmp_path / "llmc" / "link").symlink_to(tmp_path / "kept")
    assert cast("dict[str, object]", values("cache", "ls"))["files"]
    assert "removed 2 files" in run("cache", "clear").stdout
    assert not list((tmp_path / "llmc").iterdir())
    assert (tmp_path / "kept").exists()
