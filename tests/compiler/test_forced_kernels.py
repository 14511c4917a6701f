"""`x-kernels`: kernels by op and by path, wrong names, kernels that refuse; on a CPU such nodes stay with torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc.compiler.pipeline import build
from llmc.compiler.program import Program
from llmc.specs.diagnostics import LlmcError


def program(tmp_path: Path, kernels: str, device: str = "cpu") -> Program:
    spec = tmp_path / "mine.yaml"
    spec.write_text(f"extends: llama_tiny\nname: mine\nsummary: Mine\nx-kernels: {kernels}\n")
    return build(str(spec), device=device)


def chosen(built: Program, phase: str, path: str) -> set[str]:
    return {
        choice.kernel
        for choices in built.kernels[phase].values()  # type: ignore[index]
        for choice in choices
        if choice.path == path
    }


def test_by_op_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_NATIVE", "1")
    built = program(tmp_path, "{attend_cached: sdpa, lm_head: reference}")
    assert chosen(built, "decode", "self_attn.attend") == {"sdpa"}
    assert chosen(built, "decode", "lm_head") == {"reference"}
    assert built.native is not None
    assert {reason.reason for reason in built.native.refused.values()} == {
        "x-kernels asks for sdpa",
        "x-kernels asks for reference",
    }


@pytest.mark.parametrize("key", ["attend_cached", "self_attn.attend", "rope_kv_full_append"])
def test_a_node_that_is_named_is_not_joined_with_another(tmp_path: Path, key: str) -> None:
    """A GPU's program joins attention with its append, which would leave nothing of that name."""
    built = program(tmp_path, f"{{{key}: reference}}", device="cuda:sm_90")
    ops = {choice.op for choice in built.kernels["decode"]["layer"]}
    assert {"attend_cached", "rope_kv_full_append"} <= ops
    assert "append_attend" in {
        choice.op for choice in build("llama_tiny", device="cuda:sm_90").kernels["decode"]["layer"]
    }


def test_the_reference_comes_before_kernels_that_would_serve(tmp_path: Path) -> None:
    built = program(tmp_path, "{post_attention_layernorm: reference}")
    assert chosen(built, "prefill", "post_attention_layernorm") == {"reference"}
    assert ("torch", "x-kernels asks for the reference") in {
        refusal
        for choices in built.kernels["prefill"].values()
        for choice in choices
        for refusal in choice.refused
        if choice.path == "post_attention_layernorm"
    }


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        ("{attend_cashed: sdpa}", 'did you mean "attend_cached"?'),
        ("{attend_cached: spda}", 'did you mean "sdpa"?'),
        ("{linear: sdpa}", "allowed here: reference"),
        ("{attend_cached: 3}", "takes the name of a kernel"),
        ("sdpa", "x-kernels is a map"),
    ],
)
def test_wrong_wishes(tmp_path: Path, kernels: str, message: str) -> None:
    with pytest.raises(LlmcError) as caught:
        program(tmp_path, kernels)
    (found,) = caught.value.diagnostics
    assert found.code == "E0607"
    assert found.span is not None
    assert found.span.line == 4
    assert message in str(caught.value)


def test_a_kernel_that_serves_in_no_phase(tmp_path: Path) -> None:
    with pytest.raises(LlmcError) as caught:
        program(tmp_path, "{add_rms_norm: torch, rms_norm: triton}")
    assert "E0607" in str(caught.value)
    assert "rms_norm" in str(caught.value)
