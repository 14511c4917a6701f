"""Packed sequences in Triton against the float64 reference of each alone."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.attention import reference
from llmc.kernels.attention.triton_packed import attend_packed
from llmc.kernels.gpu.tuning import forced
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE

SMALL = {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2}


def ends(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths], device=DEVICE).cumsum(0)


@settings(max_examples=6, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    lengths=st.lists(st.sampled_from([0, 1, 9, 30]), min_size=1, max_size=4),
    prefix=st.sampled_from([0, 5]),
    spare=st.sampled_from([0, 3]),
    mask=st.sampled_from(["causal", "bidirectional"]),
    window=st.sampled_from([None, 6]),
    chunk=st.sampled_from([None, 8]),
    alibi=st.booleans(),
)
def test_each_sequence_is_as_if_alone(
    lengths: list[int], prefix: int, spare: int, mask: reference.MaskKind, window: int | None, chunk: int | None,
    alibi: bool,
) -> None:  # fmt: skip
    """Also its gradient; `spare` tokens after the last one are of no sequence, and give zeros."""
    total, heads, kv_heads, head_dim, v_head_dim = sum(lengths) + spare, 2, 1, 16, 12
    total_k = total + prefix * len(lengths)
    q, k, v = (
        torch.randn(*shape, device=DEVICE).requires_grad_()
        for shape in ((total, heads, head_dim), (total_k, kv_heads, head_dim), (total_k, kv_heads, v_head_dim))
    )
    fields: dict = {"mask": mask, "window": window, "chunk": chunk, "alibi": alibi}
    of_q, of_k = ends(lengths), ends([length + prefix for length in lengths])
    with forced("attention_forward", {**SMALL, "DESCRIBED": 0}):
        out, lse = attend_packed(
            q=q, k=k, v=v, cu_seqlens=of_q, cu_seqlens_k=of_k if prefix else None, max_seqlen=40, **fields
        )
    exact = [torch.zeros(0, heads * v_head_dim, device=DEVICE, dtype=torch.float64)]
    for i, length in enumerate(lengths):
        if not length:
            continue
        mine, keys = slice(int(of_q[i]), int(of_q[i + 1])), slice(int(of_k[i]), int(of_k[i + 1]))
        at = torch.arange(length + prefix, device=DEVICE)[None]
        alone = reference.attention(
            q=q[mine].double().flatten(1)[None], k=k[keys].double().flatten(1)[None],
            v=v[keys].double().flatten(1)[None], position=at[:, prefix:], key_position=at, head_dim=head_dim,
            v_head_dim=v_head_dim, **fields,
        )  # fmt: skip
        exact.append(alone[0])
    real = torch.cat(exact)
    assert_close("out", out[: len(real)].flatten(1), real)
    assert torch.equal(out[len(real) :], torch.zeros_like(out[len(real) :]))
    assert lse.shape == (heads, total)
    if not len(real):
        return
    grad = torch.randn_like(out)
    with forced("attention_backward_queries", SMALL), forced("attention_backward_keys", SMALL):
        ours = torch.autograd.grad(out, (q, k, v), grad)
    wide = torch.autograd.grad(real, (q, k, v), grad[: len(real)].flatten(1).double())
    for name, found, expected in zip("qkv", ours, wide, strict=True):
        assert_close(f"gradient of {name}", found, expected, tolerance=2e-5)


def test_positions_that_do_not_fit_are_refused() -> None:
    x = torch.randn(4, 1, 16, device=DEVICE)
    with pytest.raises(ValueError, match="2 sequences of up to 2000000000 tokens"):
        attend_packed(q=x, k=x, v=x, cu_seqlens=ends([2, 2]), max_seqlen=2 * 10**9)
