"""Documents: the merge law of `extends`, how names and paths resolve, and the hostile ones that are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmc.specs import packaged
from llmc.specs.diagnostics import Diagnostic, LlmcError
from llmc.specs.document import Document, load_document
from llmc.specs.packaged import packaged_names, packaged_path
from llmc.specs.source import YamlMap, plain


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, beside a folder of packaged specs that holds `shipped` and `shipped_2b`."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "shipped.yaml").write_text("name: shipped\nparams: {a: 1}\n")
    (packages / "shipped_2b.yaml").write_text("extends: shipped\nname: shipped_2b\n")
    (packages / "schema.json").write_text("{}")
    work = tmp_path / "work"
    work.mkdir()

    def files(_name: str) -> Path:
        return packages

    monkeypatch.setattr(packaged, "files", files)
    monkeypatch.chdir(work)
    return work


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


def merged(folder: Path, base: str, child: str) -> object:
    write(folder, base=base, child=f"extends: base\n{child}")
    return plain(load_document("child.yaml").root)


def mistake(target: str | Path) -> Diagnostic:
    with pytest.raises(LlmcError) as caught:
        load_document(target)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic


def test_maps_merge_and_the_rest_replaces(folder: Path) -> None:
    found = merged(
        folder,
        "name: base\nsummary: old\nparams: {a: 1, b: [1, 2], c: {d: 1}}\ngraph: {in: tokens, out: {logits: x}}\n",
        "name: child\nparams: {b: [3], e: 4}\ngraph: {in: [tokens], out: {hidden: y}}\n",
    )
    assert found == {
        "name": "child",
        "summary": "old",
        "params": {"a": 1, "b": [3], "c": {"d": 1}, "e": 4},
        "graph": {"in": ["tokens"], "out": {"logits": "x", "hidden": "y"}},
    }


def test_the_parents_order_comes_first(folder: Path) -> None:
    write(folder, base="a: 1\nb: 2\nc: 3\n", child="z: 0\nextends: base\nc: 4\na: 5\n")
    assert list(load_document("child.yaml").root.entries) == ["a", "b", "c", "z"]


def test_null_removes_except_in_params(folder: Path) -> None:
    base = "params: {a: 1, b: 2}\nblocks: {x: {in: x, out: y}}\n"
    found = merged(folder, base, "params: {a: null, c: null}\nblocks: {x: {out: null}}\n")
    assert found == {"params": {"a": None, "b": 2, "c": None}, "blocks": {"x": {"in": "x"}}}
    assert merged(folder, "name: a\nparams: {a: 1}\n", "params: null\n") == {"name": "a"}


def test_null_for_what_is_not_there(folder: Path) -> None:
    write(folder, base="generation: {temperature: 1.0}\n", child="extends: base\ngeneration: {tempreature: null}\n")
    found = mistake("child.yaml")
    assert (found.code, str(found.span)) == ("E0135", "child.yaml:2:14")
    assert found.help == 'did you mean "temperature"?'


def test_a_root_keeps_its_nulls(folder: Path) -> None:
    write(folder, only="a: null\nb: {c: null}\n")
    assert plain(load_document("only.yaml").root) == {"a": None, "b": {"c": None}}


BASE_NODES = "graph: {nodes: {n: {op: linear, in: x, features: 4}, m: {block: mlp, in: n}}}\n"


@pytest.mark.parametrize(
    ("child", "expected"),
    [
        ("n: {features: 8}", {"op": "linear", "in": "x", "features": 8}),
        ("n: {op: linear, bias: true}", {"op": "linear", "in": "x", "features": 4, "bias": True}),
        ("n: {op: rms_norm, in: x}", {"op": "rms_norm", "in": "x"}),
        ("n: {block: mlp, in: x}", {"block": "mlp", "in": "x"}),
        ("n: {bias: true, features: null}", {"op": "linear", "in": "x", "bias": True}),
    ],
)
@pytest.mark.parametrize("section", ["graph", "blocks"])
def test_nodes_of_another_kind_are_replaced_whole(folder: Path, section: str, child: str, expected: object) -> None:
    base, change = BASE_NODES, f"graph: {{nodes: {{{child}}}}}\n"
    if section == "blocks":
        base, change = (f"blocks: {{layer: {text.removeprefix('graph: ').strip()}}}\n" for text in (base, change))
    root = merged(folder, base, change)
    holder = {"nodes": {"n": expected, "m": {"block": "mlp", "in": "n"}}}
    assert root == ({"graph": holder} if section == "graph" else {"blocks": {"layer": holder}})


def test_another_op_outside_nodes_merges(folder: Path) -> None:
    found = merged(folder, "weights: {n: {op: a, b: 1}}\n", "weights: {n: {op: c}}\n")
    assert found == {"weights": {"n": {"op": "c", "b": 1}}}


def test_spans_name_the_file_that_wrote_the_entry(folder: Path) -> None:
    write(folder, base="params:\n  a: 1\n  b: 2\n", child="extends: base\nparams:\n  b: 3\n")
    params = load_document("child.yaml").root.get("params")
    assert isinstance(params, YamlMap)
    lines = {key: entry.value.span.at_line for key, entry in params.entries.items()}
    assert lines == {"a": "base.yaml:2", "b": "child.yaml:3"}


def test_a_chain_merges_from_its_root(folder: Path) -> None:
    write(folder, a="extends: b\nparams: {x: 1}\n", b="extends: c\nparams: {x: 2, y: 2}\n")
    write(folder, c="params: {x: 3, y: 3, z: 3}\n")
    document = load_document("a.yaml")
    assert plain(document.root) == {"params": {"x": 1, "y": 2, "z": 3}}
    assert document.chain == ("a.yaml", "b.yaml", "c.yaml")


def test_targets(folder: Path, tmp_path: Path) -> None:
    write(folder, mine="name: mine\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "odd").write_text("name: odd\n")
    expected = {"mine.yaml": "mine.yaml", "./mine.yaml": "mine.yaml", "sub/odd": "sub/odd"}
    expected |= {"../work/mine.yaml": "../work/mine.yaml"}
    assert {target: load_document(target).display for target in expected} == expected
    assert load_document(folder / "mine.yaml").display == "mine.yaml"
    assert load_document(Path("sub") / "odd").display == "sub/odd"
    document = load_document("shipped_2b")
    assert isinstance(document, Document)
    assert document.path == tmp_path / "packages" / "shipped_2b.yaml"
    assert document.chain == tuple(str(tmp_path / "packages" / f"{name}.yaml") for name in ("shipped_2b", "shipped"))
    assert plain(document.root) == {"name": "shipped_2b", "params": {"a": 1}}


def test_wrong_targets(folder: Path) -> None:
    (folder / "folder.yaml").mkdir()
    os.mkfifo(folder / "fifo.yaml")
    expected = {"absent.yaml": "E0101", "./absent": "E0101", "folder.yaml": "E0102", "fifo.yaml": "E0102"}
    expected |= {"": "E0141", "a\0b": "E0141", "shiped": "E0140"}
    assert {target: mistake(target).code for target in expected} == expected
    assert mistake("shiped").help == 'did you mean "shipped"?'
    assert mistake(Path("a\0b.yaml")).code == "E0103"


def test_packaged_names(folder: Path) -> None:
    assert packaged_names() == ("shipped", "shipped_2b")
    assert packaged_path("shipped").name == "shipped.yaml"
    with pytest.raises(LlmcError, match="E0140"):
        packaged_path("../work/mine")


def test_a_bare_name_resolves_beside_the_file_before_the_packages(folder: Path) -> None:
    write(folder, child="extends: shipped\n")
    assert plain(load_document("child.yaml").root) == {"name": "shipped", "params": {"a": 1}}
    write(folder, shipped="name: beside\n")
    assert plain(load_document("child.yaml").root) == {"name": "beside"}
    write(folder, shipped="extends: shipped\nname: mine\n")
    assert plain(load_document("shipped.yaml").root) == {"name": "mine", "params": {"a": 1}}


def test_paths_are_relative_to_their_own_file(folder: Path) -> None:
    (folder / "parts").mkdir()
    write(folder, child="extends: parts/mid.yaml\n", base="name: wrong\n")
    write(folder / "parts", mid="extends: ./base.yaml\n", base="name: right\n")
    assert plain(load_document("child.yaml").root) == {"name": "right"}
    (folder / "link.yaml").symlink_to("parts/base.yaml")
    write(folder, child="extends: link.yaml\n")
    assert plain(load_document("child.yaml").root) == {"name": "right"}


def test_circles(folder: Path) -> None:
    write(folder, a="name: a\nextends: b\n", b="extends: c.yaml\n", c="extends: a\n", self="extends: self\n")
    found = mistake("a.yaml")
    assert (found.code, str(found.span)) == ("E0133", "c.yaml:1:10")
    assert [str(note.span) for note in found.notes] == ["a.yaml:2:10", "b.yaml:1:10"]
    assert mistake("self.yaml").code == "E0133"


def test_chain_length(folder: Path) -> None:
    for number in range(9):
        write(folder, **{f"s{number}": f"extends: s{number + 1}\n" if number < 8 else "name: end\n"})
    assert plain(load_document("s1.yaml").root) == {"name": "end"}
    assert mistake("s0.yaml").code == "E0134"


HOSTILE = {
    "../secret.yaml": "E0131",
    "parts/../../secret.yaml": "E0131",
    "parts/../base.yaml": "E0131",
    "..": "E0131",
    ".": "E0131",
    "../secret": "E0131",
    "/etc/passwd": "E0131",
    "/etc/passwd.yaml": "E0131",
    "//host/share.yaml": "E0131",
    ".//etc/x.yaml": "E0131",
    "parts//base.yaml": "E0131",
    "parts/./base.yaml": "E0131",
    "~/secret.yaml": "E0131",
    "$HOME/secret.yaml": "E0131",
    "C:/secret.yaml": "E0131",
    "..\\\\secret.yaml": "E0131",
    "file:///etc/passwd.yaml": "E0131",
    "https://example.org/x.yaml": "E0131",
    "base.yaml\\0.png": "E0131",
    "\\0": "E0131",
    "\\u2024\\u2024/secret.yaml": "E0131",
    "\\uff0e\\uff0e/secret.yaml": "E0131",
    "\\u2025/secret.yaml": "E0131",
    "..\\u2215secret.yaml": "E0131",
    "%2e%2e/secret.yaml": "E0131",
    "-x.yaml": "E0131",
    ".hidden.yaml": "E0131",
    "base.yaml\\n": "E0131",
    "b*se.yaml": "E0131",
    "": "E0131",
    "dots...": "E0131",
    "link_out.yaml": "E0131",
    "link_out": "E0131",
    "linked/secret.yaml": "E0131",
    "sibling/secret.yaml": "E0131",
    "loop.yaml": "E0131",
    "absent.yaml": "E0132",
    "dangling.yaml": "E0132",
    "parts/base": "E0132",
    "fifo.yaml": "E0102",
    "fifo": "E0102",
    "parts.yaml": "E0102",
    "device.yaml": "E0131",
    "nobody": "E0140",
    "x" * 5000: "E0131",
}


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: name[:40])
def test_hostile_names(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = folder.parent / "secret.yaml"
    outside.write_text("name: secret\n")
    prefixed = folder.parent / "work-sibling"
    prefixed.mkdir()
    (prefixed / "secret.yaml").write_text("name: secret\n")
    (folder / "parts").mkdir()
    (folder / "parts.yaml").mkdir()
    write(folder, base="name: base\n")
    write(folder / "parts", base="name: base\n")
    links: dict[str, str | Path] = {"link_out.yaml": outside, "linked": folder.parent, "sibling": prefixed}
    links |= {"loop.yaml": "loop.yaml", "dangling.yaml": "nowhere.yaml", "device.yaml": "/dev/zero"}
    for link, to in links.items():
        (folder / link).symlink_to(to)
    os.mkfifo(folder / "fifo.yaml")
    write(folder, child=f'extends: "{name}"\n')

    opened: list[str] = []
    real = os.open

    def watched(path: Path, flags: int) -> int:
        opened.append(str(path))
        return real(path, flags)

    monkeypatch.setattr(os, "open", watched)
    found = mistake("child.yaml")
    monkeypatch.undo()
    assert found.code == HOSTILE[name]
    assert opened == ["child.yaml"]
    if found.code not in ("E0102",):
        assert str(found.span) == "child.yaml:1:10"


@pytest.mark.parametrize("value", ["1", "null", "[base]", "{name: base}", "true", ""])
def test_extends_takes_a_name(folder: Path, value: str) -> None:
    write(folder, child=f"name: x\nextends: {value}\n", base="name: base\n")
    found = mistake("child.yaml")
    assert found.code == "E0130"
    assert found.span is not None
    assert found.span.line == 2
