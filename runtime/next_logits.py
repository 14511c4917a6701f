"""What follows each row of a batch: logits after its last token, wherever padding lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from .execute import Executor, last_rows
from .named_inputs import positions

if TYPE_CHECKING:
    from .cache import Cache
    from .model import LanguageModel


def next_logits(
    model: LanguageModel,
    values: Mapping[str, Tensor],
    cache: Cache,
    attention_mask: Tensor | None,
    *,
    executor: Executor,
) -> Tensor:
    """`[B, V]` float32 of one pass as `LanguageModel.run_program` makes it, which updates the cache."""
    logits = model.run_program(values, cache, attention_mask, executor=executor, last_token_only=True)["logits"]
    if logits.shape[1] > 1:  # the model's end could not run on the last token alone
        logits = logits[last_rows(positions(values[model.facts.inputs[0].name], attention_mask))][:, None]
    return logits[:, 0].float()
