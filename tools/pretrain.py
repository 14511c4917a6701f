"""Trains a model from scratch on a stream of tokens: autograd through its modules, AdamW, warmup and a cosine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from ..runtime.model import LanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train. Lengths are tokens, shares are of the whole run.

    A run sees short windows first and, for its last `long_share`, whole contexts, with as many tokens a step.
    """

    steps: int
    minutes: float = 45.0
    batch_tokens: int = 2048
    short_length: int = 256
    long_length: int = 512
    long_share: float = 0.2
    learning_rate: float = 3e-3
    final_learning_rate: float = 3e-5
    warmup_share: float = 0.03
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.1
    max_gradient_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.minutes <= 0:
            raise ValueError(f"a run has at least one step and some time, not {self.steps} and {self.minutes} minutes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One row of the loss curve. `loss` is the mean over the steps since the row before, in nats per token.

    `seconds` are those on the wall, which a busy machine stretches, `cpu_seconds` those computed, of all threads.
    """

    step: int
    tokens: int
    seconds: float
    cpu_seconds: float
    learning_rate: float
    loss: float
    bits_per_byte: float
    held_out_bits_per_byte: float


class Pretraining:
    """A run on its way. `stream` is `[N]` int64; `bytes_per_token` is how much text one of its tokens stands for."""

    def __init__(self, model: LanguageModel, stream: Tensor, recipe: Recipe, *, bytes_per_token: float) -> None:
        if len(stream) <= 2 * recipe.long_length:
            raise ValueError(f"{len(stream)} tokens are too few to cut windows of {recipe.long_length} from")
        self.model, self.stream, self.recipe = model, stream, recipe
        self.bytes_per_token = bytes_per_token
        matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)
        self.step = self.tokens = 0
        self.seconds = self.cpu_seconds = 0.0
        self.curve: list[Measurement] = []
        self.losses: list[float] = []

    @property
    def progress(self) -> float:
        """0 at the beginning, 1 at the end: counted in steps.

        Once half of the minutes are over, the clock counts where it is ahead, so that a slow machine ends in time too.
        """
        by_clock = self.seconds / (60 * self.recipe.minutes)
        return max(self.step / self.recipe.steps, by_clock if by_clock >= 0.5 else 0.0)

    def advance(self) -> float:
        """One step. Gives the loss before it, in nats per token."""
        recipe, progress = self.recipe, self.progress
        started, cpu_started = time.perf_counter(), time.process_time()
        length = recipe.short_length if progress < 1 - recipe.long_share else recipe.long_length
        rows = max(recipe.batch_tokens // length, 1)
        windows = cut_windows(self.stream, step=self.step, rows=rows, length=length, seed=recipe.seed)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(recipe, progress)
        logits = cast("Tensor", self.model.train()(windows[:, :-1]))
        loss = functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        self.optimiser.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.max_gradient_norm)
        self.optimiser.step()  # pyright: ignore[reportUnknownMemberType]
        self.losses.append(loss.item())
        self.step += 1
        self.tokens += rows * length
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu_started
        return self.losses[-1]

    def to_bits_per_byte(self, loss: float) -> float:
        return loss / math.log(2) / self.bytes_per_token

    def measure(self, held_out_bits_per_byte: float) -> Measurement:
        """Close a row of the loss curve."""
        loss = sum(self.losses) / len(self.losses)
        row = Measurement(
            step=self.step,
            tokens=self.tokens,
            seconds=round(self.seconds, 1),
            cpu_seconds=round(self.cpu_seconds, 1),
            learning_rate=round(learning_rate(self.recipe, self.progress), 7),
            loss=round(loss, 4),
            bits_per_byte=round(self.to_bits_per_byte(loss), 4),
            held_out_bits_per_byte=round(held_out_bits_per_byte, 4),
        )
        self.losses = []
        self.curve.append(row)
        return row


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Linear warmup, then half a cosine down to `final_learning_rate`."""
    if progress < recipe.warmup_share:
        return recipe.learning_rate * max(progress / recipe.warmup_share, 0.01)
    done = min((progress - recipe.warmup_share) / (1 - recipe.warmup_share), 1.0)
    low = recipe.final_learning_rate
    return low + (recipe.learning_rate - low) * (1 + math.cos(math.pi * done)) / 2


def cut_windows(stream: Tensor, *, step: int, rows: int, length: int, seed: int) -> Tensor:
    """The windows of a step, `[rows, length + 1]`. Each epoch cuts the stream at another offset, in another order."""
    per_epoch = (len(stream) - 1 - length) // length
    windows: list[Tensor] = []
    for index in range(step * rows, (step + 1) * rows):
        epoch, place = divmod(index, per_epoch)
        offset, order = _cuts(seed * 1_000_003 + epoch, per_epoch, length)
        start = offset + order[place] * length
        windows.append(stream[start : start + length + 1])
    return torch.stack(windows)


@lru_cache(maxsize=2)
def _cuts(seed: int, count: int, length: int) -> tuple[int, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    offset = int(torch.randint(length, (), generator=generator))
    order = torch.randperm(count, generator=generator)
    return offset, cast("list[int]", order.tolist())  # pyright: ignore[reportUnknownMemberType]
