"""Prompts: text, token ids or a tensor of them, one or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

from torch import Tensor

from ..specs.diagnostics import fail

if TYPE_CHECKING:
    from .model import LanguageModel

Prompt: TypeAlias = "str | list[int] | Tensor"


def several_prompts(prompt: object) -> list[object] | None:
    """The prompts of a list of prompts; None for a single prompt, which may itself be a list of token ids."""
    if not isinstance(prompt, (list, tuple)) or not prompt:
        return None
    listed = list(cast("Sequence[object]", prompt))
    return None if isinstance(listed[0], int) else listed


def encode_prompt(model: LanguageModel, prompt: object, *, add_special: bool) -> list[int]:
    """The ids of one prompt. Raises E0805 where it is empty or no prompt, E0806 for text without a tokenizer."""
    if isinstance(prompt, str):
        if model.tokenizer is None:
            raise fail(
                "E0806",
                "this model has no tokenizer, so it takes token ids",
                help="give ids such as 1,2,3, or put tokenizer.json beside the weights",
            )
        ids = model.tokenizer.encode(prompt, add_special=add_special)
    elif isinstance(prompt, Tensor) and prompt.dim() == 1:
        ids = cast("list[int]", prompt.tolist())  # pyright: ignore[reportUnknownMemberType]
    elif isinstance(prompt, (list, tuple)):
        given = list(cast("Sequence[object]", prompt))
        ids = [token for token in given if isinstance(token, int)]
        if len(ids) != len(given):
            raise fail("E0805", "a prompt of token ids holds something that is no integer")
    else:
        raise fail("E0805", f"a prompt is text, a list of token ids or a 1-D tensor, not {type(prompt).__name__}")
    model.check_ids(ids)
    if not ids:
        raise fail("E0805", "the prompt is empty", help="give at least one token, e.g. the BOS token")
    return ids
