"""The same weights in transformers, eager, as the benchmarks run them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ...specs.diagnostics import LlmcError, fail

if TYPE_CHECKING:
    from collections.abc import Callable


class TransformersEngine:
    """A folder with config.json, loaded by AutoModelForCausalLM; greedy, with a cache that grows.

    dtype: that of the weights and of the arithmetic. Raises E0903 where transformers is not installed or does not know
    the architecture.
    """

    def __init__(self, folder: Path, ids: Tensor, tokens: int, dtype: torch.dtype, *, compiles: bool = False) -> None:
        self.name = "transformers compiled" if compiles else "transformers"
        started = time.perf_counter()
        self._model = _load(folder, dtype)
        self.load_seconds = time.perf_counter() - started
        if compiles:
            self._model.forward = torch.compile(self._model.forward)  # pyright: ignore[reportUnknownMemberType]
        self._ids, self._tokens = ids, tokens
        self._cache: object = None
        self._last = ids[:, -1:]
        self.token = 0
        """Of the first row, the last one that was chosen."""

    @property
    def table_bytes(self) -> int:
        """Of the table of embeddings, of which a token reads one row; 0 where it is the head too."""
        table = cast("Callable[[], nn.Embedding]", self._model.get_input_embeddings)().weight
        head = cast("Callable[[], nn.Linear]", self._model.get_output_embeddings)().weight
        return 0 if head is table else table.nbytes

    def prefill(self) -> float:
        self._cache = None
        started = time.perf_counter()
        self._last = self._step(self._ids)[:, -1:].argmax(-1)
        taken = time.perf_counter() - started
        self.token = int(self._last[0])
        return taken

    def decode(self) -> float:
        started = time.perf_counter()
        token = self._last
        for _ in range(self._tokens):
            token = self._step(token)[:, -1:].argmax(-1)
        taken = time.perf_counter() - started
        self.token = int(token[0])
        return taken

    def _step(self, ids: Tensor) -> Tensor:
        call = cast("Callable[..., object]", self._model)
        with torch.inference_mode():
            found = call(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = getattr(found, "past_key_values")  # noqa: B009
        return cast("Tensor", getattr(found, "logits"))  # noqa: B009


def _load(folder: Path, dtype: torch.dtype) -> nn.Module:
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise _missing("transformers is not installed") from error
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)  # pyright: ignore[reportUnknownMemberType]
    except (ValueError, KeyError, OSError) as error:
        raise _missing(f"transformers does not load it: {str(error).splitlines()[0]}") from error
    return cast("nn.Module", model).eval()


def _missing(reason: str) -> LlmcError:
    return fail("E0903", f"--against hf cannot run: {reason}", help="pip install 'llmc[test]', or leave --against out")
