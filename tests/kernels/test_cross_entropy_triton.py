"""The head with its cross-entropy in Triton against the float64 reference: the loss and both gradients, in chunks."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton")

from llmc.kernels.cross_entropy import reference
from llmc.kernels.cross_entropy.triton_cross_entropy import chunk_of, linear_cross_entropy
from llmc.kernels.tolerance import TOLERANCE, assert_close

from .gpu import DEVICE, DTYPES


@given(
    tokens=st.sampled_from([0, 1, 7]),
    hidden_size=st.sampled_from([8, 33]),
    vocab_size=st.sampled_from([5, 64, 4100]),
    ignored=st.sampled_from(["none", "some", "all"]),
    softcap=st.sampled_from([None, 5.0]),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    z_loss=st.sampled_from([0.0, 1e-2]),
    reduction=st.sampled_from(["mean", "sum"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_loss_and_gradients(
    tokens: int, hidden_size: int, vocab_size: int, ignored: str, softcap: float | None, label_smoothing: float,
    z_loss: float, reduction: reference.Reduction, dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    hidden = torch.randn(1, tokens, hidden_size).to(DEVICE, dtype)
    weight = (torch.randn(vocab_size, hidden_size) / hidden_size**0.5).to(DEVICE, dtype)
    target = torch.randint(vocab_size, (1, tokens))
    target[:, slice(0, {"none": 0, "some": tokens // 2, "all": tokens}[ignored])] = -100
    options = {
        "target": target.to(DEVICE), "softcap": softcap, "label_smoothing": label_smoothing, "z_loss": z_loss,
        "reduction": reduction,
    }  # fmt: skip

    def run(function: object, dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [given.detach().to(dtype).requires_grad_() for given in (hidden, weight)]
        loss = function(hidden=leaves[0], weight=leaves[1], **options)  # type: ignore[operator]
        return loss.detach(), *torch.autograd.grad(2.0 * loss, leaves)

    ours, exact = run(linear_cross_entropy, dtype), run(reference.linear_cross_entropy, torch.float64)
    for name, actual, expected in zip(("loss", "hidden.grad", "weight.grad"), ours, exact, strict=True):
        # A logit's rounding, twice for a gradient, which is a difference of a probability and the target's.
        assert_close(name, actual, expected, tolerance=3 * TOLERANCE[dtype])
    without = linear_cross_entropy(hidden=hidden, weight=weight, **options)
    assert torch.equal(without, ours[0])
    assert not without.requires_grad


def test_the_definition_is_torchs_loss() -> None:
    hidden, weight = torch.randn(9, 6, dtype=torch.float64), torch.randn(11, 6, dtype=torch.float64)
    target = torch.randint(11, (9,))
    target[3] = -100
    options = {"ignore_index": -100, "label_smoothing": 0.2}
    ours = reference.linear_cross_entropy(hidden=hidden, weight=weight, target=target, **options)
    assert_close("loss", ours, functional.cross_entropy(hidden @ weight.t(), target, **options))


def test_chunks_have_about_the_size_of_the_hidden_states() -> None:
    assert chunk_of(8192, 4096, 128256) == 256
    assert chunk_of(3, 4096, 100) == 3
    assert chunk_of(0, 8, 8) == 1
