"""What expressions calculate with: the values, their operators and functions, and the bounds that each result keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, TypeGuard, cast

from .expression_tokens import MAX_INT

Value: TypeAlias = "bool | int | float | str | list[Value] | None"

MAX_LIST = 10_000
MAX_LIST_DEPTH = 32
MAX_STRING = 4096


class OperationError(Exception):
    """An operation that has no value; it has no place yet."""

    def __init__(self, code: str, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.help = code, message, help


def kind(value: Value) -> str:
    """What a message calls the value: its type as a reader of YAML knows it."""
    match value:
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a float"
        case str():
            return "text"
        case list():
            return "a list"
        case None:
            return "null"


def bounded(value: Value) -> Value:
    """The value itself, where its magnitude or its length is within bounds. Raises OperationError."""
    if isinstance(value, int):
        if not -MAX_INT < value < MAX_INT:
            raise OperationError("E0416", "this integer exceeds 2**63")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise OperationError("E0416", "this float is not finite")
    elif isinstance(value, str):
        if len(value) > MAX_STRING:
            raise OperationError("E0417", f"this text would have more than {MAX_STRING} characters")
    elif isinstance(value, list) and _size(value) > MAX_LIST:
        raise OperationError("E0417", f"this list would have more than {MAX_LIST:,} items")
    return value


def is_true(value: Value) -> bool:
    """Whether a condition holds: true, a number but 0, a list with items. Raises OperationError for text."""
    if isinstance(value, str):
        message = f"text, '{value[:40]}', is neither true nor false"
        raise OperationError("E0413", message, "write true or false (yes and no are text), or compare with ==")
    return bool(value)


def negate(value: Value) -> Value:
    """`-value`; an infinity stays legal, since masks need it."""
    if not _is_number(value):
        raise OperationError("E0413", f"- needs a number, not {kind(value)}")
    return -value


def index(value: Value, position: Value) -> Value:
    """`value[position]` of a list or a text; a negative position counts from the end."""
    if not isinstance(value, (list, str)):
        raise OperationError("E0413", f"only a list or a text can be indexed, not {kind(value)}")
    if not _is_int(position):
        raise OperationError("E0413", f"an index has to be an integer, not {kind(position)}")
    if not -len(value) <= position < len(value):
        raise OperationError("E0415", f"the index {position} is out of range, the length is {len(value)}")
    return value[position]


def compare(operator: str, left: Value, right: Value) -> bool:
    """`left operator right`. Equality knows no conversion but int to float; order needs two numbers or two texts."""
    if operator == "==" or operator == "!=":
        return _equal(left, right) == (operator == "==")
    if operator == "in" or operator == "not in":
        if isinstance(right, str) and isinstance(left, str):
            found = left in right
        elif isinstance(right, list):
            found = any(_equal(left, item) for item in right)
        else:
            raise OperationError("E0413", f"`in` needs a list, or a text in a text, not {kind(left)} in {kind(right)}")
        return found == (operator == "in")
    if _is_number(left) and _is_number(right):
        return _ORDER[operator](left, right)
    if isinstance(left, str) and isinstance(right, str):
        order = (left > right) - (left < right)
        return _ORDER[operator](order, 0)
    raise OperationError("E0413", f"{operator} needs two numbers or two texts, not {kind(left)} and {kind(right)}")


def calculate(operator: str, left: Value, right: Value) -> Value:
    """`left operator right` for + - * / // %, within bounds. Raises OperationError."""
    if _is_number(left) and _is_number(right):
        if operator in ("/", "//", "%") and right == 0:
            raise OperationError("E0414", f"{operator} divides by zero")
        try:
            return bounded(_ARITHMETIC[operator](left, right))
        except OverflowError:
            raise OperationError("E0416", "the result exceeds the largest float") from None
    if operator == "+":
        if isinstance(left, list) and isinstance(right, list):
            return bounded(left + right)
        if isinstance(left, str) and isinstance(right, str):
            return bounded(left + right)
    if operator == "*":
        if isinstance(left, list) and _is_int(right):
            return _repeated(left, right)
        if isinstance(right, list) and _is_int(left):
            return _repeated(right, left)
    raise OperationError("E0413", f"{operator} cannot take {kind(left)} and {kind(right)}")


def call(function: str, arguments: list[Value]) -> Value:
    """The result of a function of `expression_syntax.FUNCTIONS`, within bounds. Raises OperationError."""
    try:
        return bounded(_IMPLEMENTATIONS[function](arguments))
    except OverflowError:
        raise OperationError("E0416", f"the result of {function} exceeds the largest float") from None


def _is_number(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_int(value: Value) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _size(items: list[Value], depth: int = 0) -> int:
    """The items of a list, those of the lists inside it included."""
    if depth > MAX_LIST_DEPTH:
        raise OperationError("E0417", f"lists nest at most {MAX_LIST_DEPTH} levels deep")
    return len(items) + sum(_size(item, depth + 1) for item in items if isinstance(item, list))


def _repeated(items: list[Value], times: int) -> Value:
    if _size(items) * times > MAX_LIST:
        raise OperationError("E0417", f"this list would have more than {MAX_LIST:,} items")
    return items * times


def _equal(left: Value, right: Value) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    if _is_number(left) and _is_number(right):
        return left == right
    return type(left) is type(right) and left == right


def _number(function: str, value: Value) -> int | float:
    if not _is_number(value):
        raise OperationError("E0413", f"{function} needs a number, not {kind(value)}")
    return value


def _integer(function: str, value: Value) -> int:
    if not _is_int(value):
        raise OperationError("E0413", f"{function} needs an integer, not {kind(value)}")
    return value


def _positive(function: str, value: Value) -> int:
    divisor = _integer(function, value)
    if divisor == 0:
        raise OperationError("E0414", f"{function} divides by zero")
    if divisor < 0:
        raise OperationError("E0418", f"{function} needs a positive divisor, not {divisor}")
    return divisor


def _extreme(function: str, arguments: list[Value]) -> Value:
    first = arguments[0]
    items = first if len(arguments) == 1 and isinstance(first, list) else arguments
    if not items:
        raise OperationError("E0418", f"{function} of an empty list has no value")
    pick: Callable[[list[int | float]], int | float] = min if function == "min" else max
    return pick([_number(function, item) for item in items])


def _length(arguments: list[Value]) -> Value:
    (value,) = arguments
    if not isinstance(value, (list, str)):
        raise OperationError("E0413", f"len needs a list or a text, not {kind(value)}")
    return len(value)


def _root(arguments: list[Value]) -> Value:
    value = _number("sqrt", arguments[0])
    if value < 0:
        raise OperationError("E0418", f"sqrt of the negative number {value}")
    return math.sqrt(value)


def _logarithm(arguments: list[Value]) -> Value:
    value = _number("log", arguments[0])
    if value <= 0:
        raise OperationError("E0418", f"log needs a positive number, not {value}")
    return math.log(value)


def _to_int(function: str, rounding: Callable[[int | float], int]) -> Callable[[list[Value]], Value]:
    def rounded(arguments: list[Value]) -> Value:
        value = _number(function, arguments[0])
        if not math.isfinite(value):
            raise OperationError("E0416", f"{function} needs a finite number")
        return rounding(value)

    return rounded


def _round_up(arguments: list[Value]) -> Value:
    value, multiple = _integer("round_up", arguments[0]), _positive("round_up", arguments[1])
    return -(-value // multiple) * multiple


def _ceil_div(arguments: list[Value]) -> Value:
    return -(-_integer("ceil_div", arguments[0]) // _positive("ceil_div", arguments[1]))


def _range(arguments: list[Value]) -> Value:
    count = _integer("range", arguments[0])
    if count > MAX_LIST:
        raise OperationError("E0417", f"range makes at most {MAX_LIST:,} items, not {count}")
    return cast("list[Value]", list(range(count)))


def _sum(arguments: list[Value]) -> Value:
    (items,) = arguments
    if not isinstance(items, list):
        raise OperationError("E0413", f"sum needs a list of numbers, not {kind(items)}")
    return sum(_number("sum", item) for item in items)


def _take(arguments: list[Value]) -> Value:
    items, count = arguments[0], _integer("take", arguments[1])
    if not isinstance(items, list):
        raise OperationError("E0413", f"take needs a list, not {kind(items)}")
    if not 0 <= count <= len(items):
        raise OperationError("E0415", f"take cannot have {count} items of a list of {len(items)}")
    return items[:count]


def _where(arguments: list[Value]) -> Value:
    items, wanted = arguments
    if not isinstance(items, list):
        raise OperationError("E0413", f"where needs a list, not {kind(items)}")
    return [place for place, item in enumerate(items) if _equal(item, wanted)]


_ORDER: dict[str, Callable[[int | float, int | float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_ARITHMETIC: dict[str, Callable[[int | float, int | float], int | float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
}
_IMPLEMENTATIONS: dict[str, Callable[[list[Value]], Value]] = {
    "len": _length,
    "min": lambda arguments: _extreme("min", arguments),
    "max": lambda arguments: _extreme("max", arguments),
    "abs": lambda arguments: abs(_number("abs", arguments[0])),
    "sqrt": _root,
    "exp": lambda arguments: math.exp(_number("exp", arguments[0])),
    "log": _logarithm,
    "floor": _to_int("floor", math.floor),
    "ceil": _to_int("ceil", math.ceil),
    "round": _to_int("round", round),
    "round_up": _round_up,
    "ceil_div": _ceil_div,
    "range": _range,
    "sum": _sum,
    "take": _take,
    "where": _where,
}
