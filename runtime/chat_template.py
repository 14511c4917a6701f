"""Chat templates: a model's jinja2 text that turns messages into a prompt, run without trust.

Templates come with checkpoints, so they are programs of strangers: a sandbox (`chat_sandbox`), at most 1 MiB of output,
at most one second. They see what transformers gives them and nothing else.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, cast

from jinja2 import nodes
from jinja2.environment import Template
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls  # noqa: N812
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.utils import pass_context

from ..specs.diagnostics import LlmcError, fail
from ..specs.source import Span
from . import chat_filters
from .chat_budget import TooMuchError, weight
from .chat_sandbox import BoundedEnvironment, bounded_range, make_dict, make_namespace
from .strict_json import shown

MAX_SOURCE = 256 * 1024
MAX_OUTPUT = 1024 * 1024
MAX_SECONDS = 1.0
MAX_COMPILE_SECONDS = 5.0
if TYPE_CHECKING:
    from _typeshed import TraceFunction

_FILENAME = "<chat template>"

Message = Mapping[str, object]


class RefusalError(TemplateError):
    """What the template's own `raise_exception` raises."""


class TimeUp(BaseException):
    """Raised inside the template by the deadline; not an Exception, so that nothing on the way catches it."""


class _GenerationTag(Extension):
    """`{% generation %}`, which marks the assistant's words for training: here its content is simply kept."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One compiled template. `name` is the file that diagnostics point into. Raises E0853 for a syntax error."""

    def __init__(
        self, source: str, *, name: str = "chat_template", clock: Callable[[], datetime] = datetime.now
    ) -> None:
        if len(source) > MAX_SOURCE:
            raise fail(
                "E0854", f"{name}: the chat template has {len(source)} characters; at most {MAX_SOURCE} are read"
            )
        self._name = name
        self._lock = threading.Lock()
        self._template: Template | None = None
        functions = {
            "range": bounded_range,
            "dict": make_dict,
            "namespace": make_namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime(clock),
        }
        self._environment = BoundedEnvironment(functions, (_GenerationTag, LoopControls))
        self._environment.finalize = _printed
        chat_filters.install(self._environment)
        with self._diagnosed(), _deadline(MAX_COMPILE_SECONDS):
            code = self._environment.compile(source, filename=_FILENAME)
            self._template = Template.from_code(self._environment, code, self._environment.globals)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Message] | None = None,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt. `variables` holds bos_token and the like, and what a model's template takes besides
        (`enable_thinking`). Raises E0853 (the template fails or refuses), E0854 (too much work)."""
        given = {
            "messages": list(messages),
            "tools": None if tools is None else list(tools),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **(variables or {}),
        }
        template = self._template
        assert template is not None
        with self._lock, self._diagnosed():
            data = {name: _plain(value) for name, value in given.items()}
            weight(data)
            self._environment.work = type(self._environment.work)()
            pieces: list[str] = []
            size = 0
            with _deadline(MAX_SECONDS):
                for piece in template.root_render_func(template.new_context(data)):
                    pieces.append(piece)
                    size += len(piece)
                    if size > MAX_OUTPUT:
                        raise TooMuchError(f"more than {MAX_OUTPUT} characters of output")
            return "".join(pieces)

    @contextmanager
    def _diagnosed(self) -> Generator[None, None, None]:
        """Whatever a template can raise, as a diagnostic at its line."""
        try:
            yield
        except LlmcError:
            raise
        except TimeUp as error:
            raise fail("E0854", f"the chat template ran longer than {error}", self._span(error)) from None
        except TooMuchError as error:
            raise fail("E0854", f"the chat template is too greedy: {error}", self._span(error)) from None
        except RefusalError as error:
            raise fail("E0853", f"the chat template refuses these messages: {error}", self._span(error)) from None
        except (Exception, RecursionError, MemoryError) as error:
            reason = str(error)[:300].encode("utf-8", "backslashreplace").decode() or type(error).__name__
            raise fail("E0853", f"the chat template fails: {reason}", self._span(error)) from None

    def _span(self, error: BaseException) -> Span:
        line = error.lineno if isinstance(error, TemplateSyntaxError) else 1
        trace = error.__traceback__
        while trace is not None:
            if self._template is not None and trace.tb_frame.f_code.co_filename == _FILENAME:
                line = self._template.get_corresponding_lineno(trace.tb_lineno)
            trace = trace.tb_next
        return Span(file=self._name, line=line, column=1, end_column=2)


@contextmanager
def _deadline(seconds: float) -> Generator[None, None, None]:
    """Raise `TimeUp` in this thread at the next line of the template (or call of Python) after the deadline."""
    end = time.monotonic() + seconds

    def on_event(frame: FrameType, event: str, argument: object) -> TraceFunction | None:
        if time.monotonic() > end:
            raise TimeUp(f"{seconds:g} s")
        return on_event if frame.f_code.co_filename == _FILENAME else None

    previous = sys.gettrace()
    sys.settrace(on_event)
    try:
        yield
    finally:
        sys.settrace(previous)


@pass_context
def _printed(context: Context, value: object) -> object:
    """What `{{ }}` prints; that it takes the context keeps jinja2 from evaluating constants while it compiles."""
    weight(value)
    return value


def _plain(value: object, depth: int = 0) -> object:
    """A copy made of exact JSON types: no object of ours, with methods of its own, is seen by a template."""
    if depth > 64:
        raise TooMuchError("messages nested deeper than 64")
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case Mapping():
            mapping = cast("Mapping[object, object]", value)
            return {_plain(key, depth + 1): _plain(item, depth + 1) for key, item in mapping.items()}
        case list() | tuple():
            return [_plain(item, depth + 1) for item in cast("Sequence[object]", value)]
        case _:
            raise TypeError(f"messages are made of text, numbers, lists and maps, not of {type(value).__name__}")


def _raise_exception(message: object) -> NoReturn:
    raise RefusalError(str(message)[:1000])


def _strftime(clock: Callable[[], datetime]) -> Callable[[str], str]:
    def strftime_now(format: str) -> str:
        if len(format) > 64 or re.search(r"%[0-9]", format):
            raise TooMuchError(f"the date format {shown(format)}")
        return clock().strftime(format)

    return strftime_now
