"""How each row of a recorded step draws its tokens: tensors of fixed shape, so that one graph serves every request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...kernels.kernel import resolve
from ..sampling import Drawing, mix

FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty")


class DrawSettings:
    """The operands of `kernels/sampling` for so many rows. `counts`: penalties need what each row has seen."""

    def __init__(self, rows: int, vocab_size: int, device: torch.device, *, counts: bool) -> None:
        self._sample = resolve(f"sampling.{'triton_sample' if device.type == 'cuda' else 'reference'}:sample")
        self.floats = {name: torch.zeros(rows, device=device) for name in FLOATS}
        self.top_k = torch.zeros(rows, dtype=torch.int32, device=device)
        self.seed, self.drawn = (torch.zeros(rows, dtype=torch.int64, device=device) for _ in range(2))
        self.none = torch.zeros(rows, device=device)
        self.seen = torch.zeros(rows, vocab_size, dtype=torch.int32, device=device) if counts else None
        self._held: list[list[int] | None] = [None] * rows
        """The tokens that each row of `seen` holds; None where that is not known: between `begin` and `end`, and after
        steps that drew for nobody."""
        self._given: list[list[int]] = [[] for _ in range(rows)]

    def begin(self, drawing: Drawing) -> None:
        """Set what the next steps draw by. Rows beyond the history draw as well, for nobody.

        A row of `seen` whose history goes on from what it holds only gets the new tokens: after a burst of steps, none.
        """
        sampling, device = drawing.sampling, self.seed.device
        for name, buffer in self.floats.items():
            buffer.fill_(getattr(sampling, name))
        self.top_k.fill_(sampling.top_k)
        rows = len(self.seed)
        self.seed.copy_(torch.tensor([mix(sampling.seed, row) for row in range(rows)]).to(device))
        counts = [*drawing.generated, *([0] * (rows - len(drawing.generated)))]
        self.drawn.copy_(torch.tensor(counts, dtype=torch.int64).to(device))
        if self.seen is not None:
            for row in range(rows):
                self._count(self.seen[row], row, drawing.history[row] if row < len(drawing.history) else ())

    def _count(self, seen: Tensor, row: int, history: Sequence[int]) -> None:
        """Mark the tokens of a prompt and its continuation."""
        held, self._held[row], self._given[row] = self._held[row], None, list(history)
        if held is None or self._given[row][: len(held)] != held:
            seen.zero_()
            held = []
        new = [token for token in self._given[row][len(held) :] if 0 <= token < len(seen)]
        if new:
            seen[torch.tensor(new, device=seen.device)] = 1

    def end(self, drawn: Sequence[Sequence[int]], steps: int) -> None:
        """Say what each row has drawn in the steps since `begin`: less than one a step is a row that ended."""
        for row, tokens in enumerate(drawn):
            self._held[row] = [*self._given[row], *tokens] if len(tokens) == steps else None

    def choose(self, logits: Tensor) -> Tensor:
        """Logits `[B, V]` -> ids `[B]` int64, -1 where they are not finite; counts what was drawn."""
        tokens = self._sample(
            logits=logits, **self.floats, top_k=self.top_k, presence_penalty=self.none, frequency_penalty=self.none,
            seed=self.seed, step=self.drawn, seen=self.seen,
        )  # fmt: skip
        assert isinstance(tokens, Tensor)
        self.drawn.add_(1)
        return tokens
