"""How far a packed model is from the model itself, on a text: divergence, agreement and perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..specs.diagnostics import fail
from ..specs.packaged import packaged_folder
from .model import LanguageModel

SAMPLE_WINDOWS, SAMPLE_TOKENS, SAMPLE_CHARACTERS = 4, 128, 4096
"""How much text `sample` takes: enough to see a format that does not serve, in a few seconds on a small machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisationError:
    """Means over `positions` positions.

    divergence: KL(reference || packed) of the next token, in nats; agreement: the share of positions where both find
    the same token likeliest; before and after: perplexity of the reference and of the packed model.
    """

    positions: int
    divergence: float
    agreement: float
    before: float
    after: float

    def __str__(self) -> str:
        return (
            f"logit KL {self.divergence:.2e} nats, top-1 agreement {self.agreement:.1%}, perplexity {self.before:.4g} "
            f"before and {self.after:.4g} after ({self.after / self.before - 1:+.2%}), {self.positions:,} positions"
        )


def quantisation_error(reference: LanguageModel, packed: LanguageModel, tokens: Tensor) -> QuantisationError:
    """Both models on the same windows of a text.

    tokens: `[B, T]` int64, T at least 2; each row is run alone, so memory holds the logits of T tokens. The last
    position of a row has no next token and is left out. Raises E0803 for shapes that do not fit and E0856 where the
    logits of either model are not finite.
    """
    if tokens.dim() != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
        raise fail("E0803", f"windows of a text are [B, T] with T at least 2, not {list(tokens.shape)}")
    divergence = agreement = before = after = 0.0
    for row in tokens:
        true, found = _log_probabilities(reference, row), _log_probabilities(packed, row)
        divergence += float((true.exp() * (true - found)).sum())
        agreement += float((true.argmax(-1) == found.argmax(-1)).sum())
        next_token = row[1:, None].to(true.device)
        before -= float(true.gather(-1, next_token).sum())
        after -= float(found.gather(-1, next_token).sum())
    count = tokens.shape[0] * (tokens.shape[1] - 1)
    return QuantisationError(
        positions=count,
        divergence=max(0.0, divergence / count),
        agreement=agreement / count,
        before=math.exp(before / count),
        after=math.exp(after / count),
    )


def windows(ids: Sequence[int], size: int, most: int | None = None) -> Tensor:
    """Token ids of a text -> `[B, T]` int64: full windows of `size` tokens side by side, at most `most` of them.

    A shorter text is one window. Raises E0805 for a text of fewer than two tokens.
    """
    if len(ids) < 2:
        raise fail("E0805", f"a text of {len(ids)} tokens has no next token to predict", help="give a longer text")
    if len(ids) < size:
        return torch.tensor([list(ids)])
    count = len(ids) // size if most is None else min(most, len(ids) // size)
    return torch.tensor(list(ids[: count * size])).view(count, size)


def sample(model: LanguageModel) -> Tensor:
    """Windows of the held-out text that ships; of random ids where the model has no tokenizer. `[B, T]` int64."""
    size = min(SAMPLE_TOKENS, model.max_seq_len or SAMPLE_TOKENS)
    if model.tokenizer is not None:
        text = (packaged_folder() / "models" / "small" / "heldout.txt").read_text(encoding="utf-8")
        return windows(model.tokenizer.encode(text[:SAMPLE_CHARACTERS]), size, SAMPLE_WINDOWS)
    vocab_size = model.facts.vocab_size
    assert isinstance(vocab_size, int)
    return torch.randint(0, vocab_size, (SAMPLE_WINDOWS, size), generator=torch.Generator().manual_seed(0))


def _log_probabilities(model: LanguageModel, row: Tensor) -> Tensor:
    """`[T]` int64 -> `[T - 1, V]` float64: of the token after each but the last."""
    with torch.no_grad():
        found = model(row[None].to(model.device))
    logits = found if isinstance(found, Tensor) else found["logits"]
    scores = logits[0, :-1].double().log_softmax(-1)
    if not bool(torch.isfinite(scores).all()):
        raise fail("E0856", f"{model.facts.name} gives logits that are not finite")
    return scores
