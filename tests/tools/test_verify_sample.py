"""What is verified without weights is small: few layers, but one of each kind."""

from __future__ import annotations

from llmc.compiler.pipeline import read
from llmc.tools.verify_sample import small_instance


def test_layers_of_several_kinds_are_as_many_as_the_first_of_each_takes() -> None:
    spec, model, lowered = small_instance(*read("gemma3_1b"))
    kinds = spec.environment["layer_types"]
    assert isinstance(kinds, list)
    assert lowered["num_layers"] == len(kinds) == 6
    assert kinds == ["sliding_attention"] * 5 + ["full_attention"]
    assert len([call for call in model.calls if ".layers." in call.binding.prefix]) == 6
