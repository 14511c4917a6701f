"""Names from a spec never become code: hostile ones are refused, and RESERVED is what torch's modules really have."""

from __future__ import annotations

import keyword
from typing import Any

import pytest
import torch

import llmc
from llmc.compiler.check import check_structure
from llmc.compiler.names import MAX_LENGTH, RESERVED, check_name
from llmc.compiler.pipeline import read
from llmc.specs.diagnostics import LlmcError
from llmc.specs.document import load_document
from llmc.specs.source import Span, YamlEntry, YamlList, YamlMap, YamlNode, YamlScalar

SPAN = Span(file="x.yaml", line=1, column=1, end_column=2)

OTHER_VERSIONS = frozenset(("ipu", "mtia", "xpu"))
"""Attributes that only some versions of torch have."""

ADDED_BY_OTHERS = frozenset(("smart_apply",))
"""Attributes that other libraries put on torch's modules once they are imported, here transformers."""

INJECTIONS = (
    'q", print("x") or "q',
    "q'); import os; os.system('echo", "__import__('os')", "x = 1", "x\nimport os", "x;y", "x#y",
    'a"""b', "a'''b", "{x}", "{0.__class__}", "%s", "$(id)", "`id`", "<script>", "../x", "/etc/passwd", "C:\\x", "x\0y",
    "x\ty", "x\ry", " x", "x ", "x y", "", ".", "..", "a..b", ".a", "a.", "-", "--help", "-x", "1x", "0", "12", "a-b",
    "a+b", "a*b",
    "a/b", "a,b", "a:b", "a=b", "a!b", "a?b", "a@b", "a&b", "a|b", "a^b", "a~b", "a<b", "a>b", "a(b", "a)b",
    "a[b", "a]b", "a{b", "a}b", "a\\b", "a'b", 'a"b', "a`b", "${x}", "$x", "#include", "//", "/*", "*/", "a%b",
    "layer\N{RIGHT-TO-LEFT OVERRIDE}x", "x\N{ZERO WIDTH SPACE}", "\N{CYRILLIC SMALL LETTER A}ttend", "naïve", "ﬁeld",
    "x\N{FULLWIDTH FULL STOP}y",
    "x\N{ONE DOT LEADER}y", "变量", "x\u2028y", "x\u0085y", "\N{MATHEMATICAL BOLD SMALL X}",
    "\N{DIGIT ONE}\N{ARABIC-INDIC DIGIT ONE}", "e\N{COMBINING ACUTE ACCENT}", "😀", "\x1b[31mred", "\x7f", "\ufeffx",
    "a" * (MAX_LENGTH + 1), "a" * 10_000, "a." * 5_000, "_" * 65, "x" * 64 + "\n", "x\n",
)  # fmt: skip
DUNDERS = ("__class__", "__dict__", "__init__", "__getattr__", "__del__", "__import__", "__builtins__", "__", "___")
HOSTILE = (*INJECTIONS, *DUNDERS, *keyword.kwlist)
"""Refused everywhere: of a node, a block, a port and a param."""

AS_PATHS = (
    *sorted(RESERVED),
    "a.forward",
    "forward.a",
    "layers.0.to",
    "a.__class__",
    "a.if",
    "a.b c",
    "1.a",
    "a.1234567",
)
"""Refused of a node, whose name is a path of modules."""


def test_there_are_two_hundred() -> None:
    assert len({*HOSTILE, *AS_PATHS}) >= 200


@pytest.mark.parametrize("is_path", [True, False])
@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:40])
def test_hostile_name_is_refused(name: str, is_path: bool) -> None:
    problem = check_name(name, "a node", SPAN, is_path=is_path)
    assert problem is not None
    assert problem.code == "E0301"
    assert problem.message.isprintable()
    assert len(problem.message) < 300


@pytest.mark.parametrize("name", AS_PATHS)
def test_hostile_path_is_refused(name: str) -> None:
    assert check_name(name, "a node", SPAN, is_path=True) is not None


@pytest.mark.parametrize(
    "name", ["q_proj", "model.layers", "h.0.mlp", "A_log", "_x", "a.123456.b", "attn.c_attn", "LayerNorm", "x" * 64]
)
def test_names_of_checkpoints_are_allowed(name: str) -> None:
    assert check_name(name, "a node", SPAN, is_path=True) is None


@pytest.mark.parametrize("where", ["node", "block", "port", "param", "output", "local param"])
def test_hostile_name_is_refused_in_a_spec(where: str) -> None:
    """Written into the positioned tree, since YAML itself refuses some of them."""
    root = load_document("llama_tiny").root
    for name in ('q", print("x") or "q', "x\nimport os", "__class__", "lambda", "变量", "a" * 65):
        found = check_structure(_with_name(root, where, name))
        assert "E0301" in {diagnostic.code for diagnostic in found}, (where, name)


@pytest.mark.parametrize("name", ["a b", 'q", print("x") or "q', "__class__", "forward.x y", "class"])
def test_evaluated_share_is_a_name(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("share") / "x.yaml"
    text = "llmc: 1\nname: x\nextends: llama_tiny\nparams: {o: a}\ngraph: {nodes: {model.layers: {share: '${o}'}}}\n"
    path.write_text(text)
    with pytest.raises(LlmcError) as caught:
        read(path, {"o": name})
    assert {diagnostic.code for diagnostic in caught.value.diagnostics} == {"E0301"}


def test_reserved_names_are_the_attributes_of_modules() -> None:
    """Of torch's containers and of llmc's own; annotated ones and those of an instance count."""
    torch.set_num_threads(1)
    sizes = {"num_layers": 1, "hidden_size": 16, "intermediate_size": 16, "vocab_size": 32, "num_heads": 2}
    model: Any = llmc.load("llama_tiny", seed=0, params=sizes)
    ours = [module for module in model.modules() if type(module).__name__ in ("LanguageModel", "Block", "Scope")]
    assert len(ours) > 2
    public = set[str]().union(*map(_public, (torch.nn.Module(), torch.nn.ModuleList(), *ours)))
    assert public <= RESERVED
    assert RESERVED - public <= OTHER_VERSIONS


def _public(module: torch.nn.Module) -> set[str]:
    names = {*dir(module), *vars(module)} - {name for name, _ in (*module.named_children(), *module.named_parameters())}
    for kind in type(module).__mro__:
        names |= set(getattr(kind, "__annotations__", {}))
    return {name for name in names if not name.startswith("_")} - ADDED_BY_OTHERS


def _with_name(root: YamlMap, where: str, name: str) -> YamlMap:
    node = YamlMap(entries={}, span=SPAN)
    match where:
        case "node":
            return _put(root, ("graph", "nodes", name), node)
        case "block":
            return _put(root, ("blocks", name), node)
        case "port":
            return _put(root, ("blocks", "mlp", "in"), YamlList(items=(YamlScalar(value=name, span=SPAN),), span=SPAN))
        case "param":
            return _put(root, ("params", name), YamlScalar(value=1, span=SPAN))
        case "local param":
            return _put(root, ("blocks", "mlp", "params"), _put(node, (name,), YamlScalar(value=1, span=SPAN)))
        case _:
            return _put(root, ("graph", "out", name), YamlScalar(value="lm_head", span=SPAN))


def _put(holder: YamlMap, path: tuple[str, ...], value: YamlNode) -> YamlMap:
    first, *rest = path
    if rest:
        inner = holder.get(first)
        assert isinstance(inner, YamlMap)
        value = _put(inner, tuple(rest), value)
    entry = YamlEntry(key=first, key_span=SPAN, value=value)
    return YamlMap(entries={**holder.entries, first: entry}, span=holder.span)
