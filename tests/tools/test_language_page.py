"""specs/README.md: its generated part equals the ops, and its example is a model that runs."""

from __future__ import annotations

import re
from pathlib import Path

import llmc
from llmc.tools.language_page import updated

PAGE = Path(llmc.__file__).parent / "specs" / "README.md"


def test_the_generated_part_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == updated(text), "run python -P -m llmc.tools.language_page"


def test_the_example_runs(tmp_path: Path) -> None:
    example = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    path = tmp_path / "tiny_gated.yaml"
    path.write_text(example)
    model = llmc.load(path, seed=1)
    out = model.generate([1, 2, 3], max_new_tokens=4, ignore_eos=True)
    assert len(out.tokens) == 4
