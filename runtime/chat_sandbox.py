"""The jinja2 environment of chat templates: nothing reachable but plain data, every value it makes is weighed.

jinja2's sandbox keeps templates from Python's internals; it does not keep them from memory and time. Here attributes
and callables are allow-lists, and every operation that can make a large value (operators, literals, `~`, slices, method
calls, filters, captured blocks) is bounded before it runs. What is left is linear and is cut by the deadline.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from types import BuiltinMethodType
from typing import Any, cast

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace

from .chat_bounds import MAX_BITS, require_room_for_fields, require_room_for_method, require_room_for_operator
from .chat_budget import TooMuchError, Work, listed

MAX_RANGE = 100_000
_LONG_NUMBER = re.compile(r"[0-9]{4,}")

_STR_METHODS = frozenset(
    {
        "capitalize",
        "casefold",
        "center",
        "count",
        "endswith",
        "find",
        "format",
        "index",
        "isalnum",
        "isalpha",
        "isascii",
        "isdecimal",
        "isdigit",
        "isidentifier",
        "islower",
        "isnumeric",
        "isprintable",
        "isspace",
        "istitle",
        "isupper",
        "join",
        "ljust",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rfind",
        "rindex",
        "rjust",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "swapcase",
        "title",
        "upper",
        "zfill",
    }
)
_ATTRIBUTES: Mapping[type, frozenset[str]] = {
    str: _STR_METHODS,
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    LoopContext: frozenset(
        {
            "index",
            "index0",
            "revindex",
            "revindex0",
            "first",
            "last",
            "length",
            "depth",
            "depth0",
            "previtem",
            "nextitem",
            "cycle",
            "changed",
        }
    ),
}


class BoundedCode(CodeGenerator):
    """Generated code that hands each new value to the environment to be weighed."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        self.write("environment.made(")
        super().visit_List(node, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self.write("environment.made(")
        super().visit_Dict(node, frame)
        self.write(")")

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        if node.ctx != "load":
            super().visit_Tuple(node, frame)
            return
        self.write("environment.made(")
        super().visit_Tuple(node, frame)
        self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        self.write("environment.made(" if isinstance(node.arg, nodes.Slice) else "(")
        super().visit_Getitem(node, frame)
        self.write(")")


class BoundedFormat:
    """`text.format`, with the sandbox's attribute rules and a bound on its result."""

    def __init__(self, environment: BoundedEnvironment, text: str) -> None:
        self._environment = environment
        self._text = text

    def __call__(self, *args: object, **kwargs: object) -> str:
        require_room_for_fields(self._text, "{", (args, kwargs))
        formatter: Formatter = _NarrowFormatter(self._environment)
        return formatter.vformat(self._text, args, kwargs)


class _NarrowFormatter(SandboxedFormatter):
    def format_field(self, value: object, format_spec: str) -> str:
        if _LONG_NUMBER.search(format_spec):
            raise TooMuchError("a format width of four digits")
        return cast(str, super().format_field(value, format_spec))


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """`work` is the budget of the rendering in progress; `functions` are the only global callables."""

    code_generator_class = BoundedCode
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, functions: Mapping[str, object], extensions: Sequence[str | type]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=cast("Sequence[str]", extensions),
            cache_size=0,
        )
        self.work = Work()
        self.functions = tuple(functions.values())
        self.globals.clear()
        self.globals.update(cast(dict[str, Any], functions))
        self.concat = self.joined

    def made(self, value: object) -> object:
        """Any new value, weighed."""
        return self.work.add(value)

    def joined(self, parts: Iterable[object]) -> str:
        """What `~` and captured blocks make."""
        texts = [str(part) for part in parts]
        self.work.require_room(sum(map(len, texts)))
        return self.work.add("".join(texts))

    def is_safe_attribute(self, obj: object, attr: object, value: object) -> bool:
        if not isinstance(attr, str) or attr.startswith("_"):
            return False
        return isinstance(obj, Namespace) or attr in _ATTRIBUTES.get(type(obj), ())

    def is_safe_callable(self, obj: object) -> bool:
        if isinstance(obj, BuiltinMethodType):
            return obj.__name__ in _ATTRIBUTES.get(type(obj.__self__), ())
        if isinstance(obj, Macro | LoopContext | Undefined | BoundedFormat):
            return True
        return _is_loop_method(obj) or any(obj is function for function in self.functions)

    def wrap_str_format(self, value: object) -> BoundedFormat | None:
        if isinstance(value, BuiltinMethodType) and isinstance(value.__self__, str) and value.__name__ == "format":
            return BoundedFormat(self, str(value.__self__))
        return None

    def call(self, context: Context, obj: object, /, *args: object, **kwargs: object) -> object:
        if isinstance(obj, BuiltinMethodType) and isinstance(obj.__self__, str):
            args = tuple(listed(arg) for arg in args)
            require_room_for_method(str(obj.__self__), obj.__name__, args)
        return self.work.add(listed(super().call(context, obj, *args, **kwargs)))

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        require_room_for_operator(operator, left, right)
        result = self.binop_table[operator](left, right)
        if isinstance(result, int) and result.bit_length() > MAX_BITS:
            raise TooMuchError(f"an integer of more than {MAX_BITS} bits")
        return self.work.add(cast(object, result))


def bounded_range(*args: int) -> range:
    """`range`, at most 100 000 long."""
    numbers = range(*args)
    if max(map(abs, args), default=0) >= 2**31 or len(numbers) > MAX_RANGE:
        raise TooMuchError(f"a range longer than {MAX_RANGE}")
    return numbers


def make_namespace(*args: Mapping[str, object], **kwargs: object) -> Namespace:
    """`namespace`, without names that begin with an underscore."""
    values = dict(*args, **kwargs)
    if any(not isinstance(name, str) or name.startswith("_") for name in values):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SecurityError("a namespace name begins with an underscore")
    return Namespace(values)


def make_dict(*args: Mapping[str, object], **kwargs: object) -> dict[str, object]:
    return dict(*args, **kwargs)


def _is_loop_method(obj: object) -> bool:
    owner: object = getattr(obj, "__self__", None)
    return isinstance(owner, LoopContext) and getattr(obj, "__name__", "") in ("cycle", "changed")
