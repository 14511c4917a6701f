"""Text to token ids and back, from the tokenizer.json of a model folder.

BOS policy: what the post-processor of tokenizer.json does, overridden by an explicit `add_bos_token` (transformers 5.23
ignores that flag beside a tokenizer.json), and never a second BOS. EOS: only from the post-processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from ..specs.diagnostics import LlmcError, fail
from .containment import find_inside, inside, read_bytes
from .special_tokens import SpecialTokens, read_special_tokens
from .strict_json import is_object, parse_json, shown
from .tokenizer_json import check_tokenizer_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RustTokenizer

    from .chat_template import ChatTemplate, Message

MAX_TOKENIZER_BYTES = 64 * 1024 * 1024
Result = TypeVar("Result")


class Tokenizer:
    """`vocab_size` is one more than the largest id; a model may have spare rows above it."""

    def __init__(self, rust: RustTokenizer, special: SpecialTokens, vocab_size: int, folder: Path) -> None:
        self._rust = rust
        self._special = special
        self._folder = folder
        self._chat: ChatTemplate | None = None
        self.vocab_size = vocab_size
        self.special_tokens: Mapping[str, str] = MappingProxyType(dict(special.texts))
        self.bos_id = self._id_of("bos_token") if "bos_token" in special.texts else special.bos_id
        self.pad_id = self._id_of("pad_token") if "pad_token" in special.texts else special.pad_id
        eos = self._id_of("eos_token")
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys([*special.eos_ids, *([] if eos is None else [eos])]))
        self.special_ids = frozenset(id for id, token in rust.get_added_tokens_decoder().items() if token.special)

    @property
    def chat_template(self) -> str | None:
        """The jinja2 source, None where the folder has none."""
        return self._special.chat_template

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Token ids. Raises E0852 for text that is not valid Unicode or that the tokenizer cannot take."""
        body = self._ids(text, add_special=False)
        if not add_special:
            return body
        ids = self._ids(text, add_special=True)
        bos = self.bos_id
        if bos is not None:
            was_added = _run(ids, bos) > _run(body, bos)
            if was_added and (body[:1] == [bos] or self._special.add_bos is False):
                ids = ids[1:]
            elif self._special.add_bos is True and ids[:1] != [bos]:
                ids = [bos, *ids]
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text. Ids above the vocabulary (spare rows of a model) are no text; negative ones are E0852."""
        if any(not 0 <= id < 2**31 for id in ids):
            raise fail("E0852", "a token id is negative or beyond 2^31")
        return self._guarded("decode these ids", lambda: self._rust.decode(list(ids), skip_special_tokens=skip_special))

    def token_text(self, id: int) -> str | None:
        """The token as the vocabulary spells it (`Ġthe`); None for an id without one."""
        return self._rust.id_to_token(id) if 0 <= id < 2**31 else None

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""
        return self._rust.token_to_id(token)

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Message] | None = None,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt of a conversation by the model's template; to be encoded with `add_special=False`."""
        source = self._special.chat_template
        if source is None:
            raise fail(
                "E0858", f"{self._folder} has no chat template", help="give a plain prompt, or add chat_template.jinja"
            )
        if self._chat is None:
            from .chat_template import ChatTemplate

            self._chat = ChatTemplate(source, name=f"{self._folder}:chat_template")
        return self._chat.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables={**self.special_tokens, **(variables or {})},
        )

    def _id_of(self, role: str) -> int | None:
        text = self._special.texts.get(role)
        return None if text is None else self._rust.token_to_id(text)

    def _ids(self, text: str, *, add_special: bool) -> list[int]:
        ids = self._guarded("encode this text", lambda: self._rust.encode(text, add_special_tokens=add_special).ids)
        if ids and max(ids) >= self.vocab_size:
            raise fail("E0852", f"the tokenizer of {self._folder} gave the id {max(ids)}, beyond its own vocabulary")
        return ids

    def _guarded(self, what: str, work: Callable[[], Result]) -> Result:
        try:
            return _guarded(work)
        except RustError as failure:
            raise fail("E0852", f"the tokenizer of {self._folder} cannot {what}: {failure}") from None


def _run(ids: Sequence[int], id: int) -> int:
    """How many times `id` stands at the beginning."""
    return next((index for index, other in enumerate(ids) if other != id), len(ids))


class RustError(Exception):
    """Whatever came out of the tokenizers library, as one line."""


def _guarded(work: Callable[[], Result]) -> Result:
    """A panic in Rust arrives as a BaseException of a class that cannot be imported."""
    try:
        return work()
    except (KeyboardInterrupt, SystemExit, GeneratorExit, LlmcError):
        raise
    except BaseException as error:
        raise RustError(shown(str(error) or type(error).__name__)) from None


def folder_tokenizer(folder: Path, policy: Mapping[str, object]) -> Tokenizer | None:
    """The tokenizer of a model folder, None where it has none. policy: what the spec says under `tokenizer:`."""
    if find_inside(folder, "tokenizer.json") is None:
        return None
    add_bos, template = policy.get("add_bos"), policy.get("chat_template")
    return load_tokenizer(
        folder,
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        chat_template=template if isinstance(template, str) else None,
    )


def load_tokenizer(folder: Path, *, add_bos: bool | None = None, chat_template: str | None = None) -> Tokenizer:
    """The tokenizer of a model folder. `add_bos` of the spec overrides the folder's policy, None leaves it; the spec's
    `chat_template` serves where the folder has none. Raises E0751 (no file), E0752 (JSON), E0850 (content)."""
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as RustTokenizer

    path = inside(folder, "tokenizer.json")
    data = read_bytes(path, MAX_TOKENIZER_BYTES)
    value = parse_json(data, str(path))
    if not is_object(value):
        raise fail("E0850", f"{path} is not a JSON object")
    vocab_size = check_tokenizer_json(path, value)
    special = read_special_tokens(folder)
    special = replace(
        special,
        add_bos=special.add_bos if add_bos is None else add_bos,
        chat_template=special.chat_template or chat_template,
    )
    try:
        rust = _guarded(lambda: RustTokenizer.from_str(data.decode("utf-8")))
        _guarded(rust.no_truncation)
        _guarded(rust.no_padding)
        known = [text for text in special.texts.values() if rust.token_to_id(text) is not None]
        tokens = [AddedToken(text, special=True, normalized=False) for text in known]
        _guarded(lambda: rust.add_special_tokens(tokens))  # pyright: ignore[reportUnknownMemberType]
    except RustError as failure:
        raise fail("E0850", f"{path} is not a tokenizer that can be used: {failure}") from None
    return Tokenizer(rust, special, vocab_size, folder)
