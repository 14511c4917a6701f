"""Text as tokens arrive: never half of a character, and together exactly what decoding all tokens at once gives."""

from __future__ import annotations

import re

from .tokenizer import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_INCOMPLETE = "\ufffd"
MAX_CONTEXT = 32
"""Tokens kept before the new ones, so that a decoder that treats the first token of a text specially sees a middle."""


class Detokenizer:
    """The state of one row. Prefix text already shown is never taken back."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []

    def push(self, id: int) -> str:
        """The text that `id` completes, possibly empty."""
        token = self._tokenizer.token_text(id)
        if token is None or (self._skip_special and id in self._tokenizer.special_ids):
            return ""
        self._pending.append(id)
        if _BYTE_TOKEN.fullmatch(token):
            return ""
        if len(self._pending) > 8 and self._decode(self._pending[-4:]).endswith(_INCOMPLETE):
            return ""
        text = self._decode(self._context + self._pending)
        if text.endswith(_INCOMPLETE) or not text.startswith(self._context_text):
            return ""
        piece = text[len(self._context_text) :]
        if piece:
            self._advance()
        return piece

    def flush(self) -> str:
        """What is still held, incomplete characters as U+FFFD."""
        if not self._pending:
            return ""
        text = self._decode(self._context + self._pending)
        piece = text[len(self._context_text) :]
        self._advance()
        return piece

    def _advance(self) -> None:
        """The new tokens become context; older context goes once the new one alone holds a visible character."""
        text = self._decode(self._pending)
        if text.strip() or len(self._context) > MAX_CONTEXT:
            self._context = self._pending
        else:
            self._context = self._context + self._pending
            text = self._decode(self._context)
        self._context_text = text
        self._pending = []

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special=self._skip_special)
