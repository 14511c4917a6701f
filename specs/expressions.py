"""Expressions in specs: `num_heads * head_dim`, and strings that hold `${…}`. Own parser, bounded, never `eval`.

`parse` reads one expression, `parse_template` a YAML string that may hold `${…}`; both keep the free names, so that
the compiler can order params. Mistakes raise LlmcError with the caret at the token where the span allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from .diagnostics import LlmcError, did_you_mean, fail, quoted
from .expression_syntax import (
    MAX_CHARACTERS,
    Call,
    Chain,
    Conditional,
    Constant,
    Index,
    ListOf,
    Name,
    Tree,
    Unary,
    parse_tree,
)
from .expression_tokens import MAX_INT, ExpressionError, string_end
from .expression_values import (
    MAX_STRING,
    OperationError,
    Value,
    bounded,
    calculate,
    call,
    compare,
    index,
    is_true,
    negate,
)
from .source import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A parsed expression. `names` are the names that it needs from its environment."""

    text: str
    span: Span
    names: frozenset[str]
    tree: Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A YAML string cut at its `${…}`. A plain one holds none and is its own text (with `$${` as `${`)."""

    text: str
    span: Span
    names: frozenset[str]
    parts: tuple[str | Expression, ...]

    @property
    def is_plain(self) -> bool:
        return all(isinstance(part, str) for part in self.parts)


def parse(text: str, span: Span) -> Expression:
    """The expression that a scalar holds. `span` is the scalar's (quotes included), or the expression's own.

    Raises LlmcError at the offending token.
    """
    try:
        tree, names = _parse_cached(text)
    except ExpressionError as fault:
        raise _placed(fault, text, span) from None
    return Expression(text=text, span=span, names=names, tree=tree)


def evaluate(expression: Expression, environment: Mapping[str, Value]) -> Value:
    """The value of an expression where names mean what `environment` says.

    Raises LlmcError: an unknown name, a wrong type, a division by zero, an index or a magnitude out of range.
    """
    try:
        return _evaluate(expression.tree, environment)
    except ExpressionError as fault:
        raise _placed(fault, expression.text, expression.span) from None


def parse_template(text: str, span: Span) -> Template:
    """A YAML string that may hold `${expression}`; `$${` stands for a literal `${`. Raises LlmcError."""
    if "${" not in text:
        return Template(text=text, span=span, names=frozenset(), parts=(text,))
    try:
        pieces = _split_cached(text)
    except ExpressionError as fault:
        raise _placed(fault, text, span) from None
    parts: list[str | Expression] = []
    for piece in pieces:
        if isinstance(piece, str):
            parts.append(piece)
        else:
            start, end = piece
            parts.append(parse(text[start:end], _within(span, text, start, end)))
    names = frozenset[str]().union(*(part.names for part in parts if isinstance(part, Expression)))
    return Template(text=text, span=span, names=names, parts=tuple(parts))


def evaluate_template(template: Template, environment: Mapping[str, Value]) -> Value:
    """The value of a lone `${…}` with its own type; otherwise the parts joined as a string. Raises LlmcError."""
    if len(template.parts) == 1:
        only = template.parts[0]
        return only if isinstance(only, str) else evaluate(only, environment)
    pieces: list[str] = []
    for part in template.parts:
        pieces.append(part if isinstance(part, str) else _as_text(evaluate(part, environment), part))
    joined = "".join(pieces)
    if len(joined) > MAX_STRING:
        raise fail("E0417", f"this text would have more than {MAX_STRING} characters", template.span)
    return joined


@lru_cache(maxsize=4096)
def _parse_cached(text: str) -> tuple[Tree, frozenset[str]]:
    tree = parse_tree(text)
    return tree, frozenset(_names(tree))


@lru_cache(maxsize=4096)
def _split_cached(text: str) -> tuple[str | tuple[int, int], ...]:
    """The literal pieces, and of each `${…}` the bounds of the expression inside."""
    pieces: list[str | tuple[int, int]] = []
    literal: list[str] = []
    at = 0
    while (opening := text.find("${", at)) >= 0:
        if opening > at and text[opening - 1] == "$":
            literal.append(text[at : opening - 1] + "${")
            at = opening + 2
            continue
        literal.append(text[at:opening])
        if before := "".join(literal):
            pieces.append(before)
        literal.clear()
        end = _closing_brace(text, opening)
        pieces.append((opening + 2, end))
        at = end + 1
    if rest := "".join([*literal, text[at:]]):
        pieces.append(rest)
    return tuple(pieces)


def _closing_brace(text: str, opening: int) -> int:
    """Where the `}` of a `${` stands; those inside string literals do not count."""
    at = opening + 2
    limit = at + MAX_CHARACTERS
    while at < len(text) and text[at] != "}":
        if at > limit:
            message = f"this expression has more than {MAX_CHARACTERS} characters"
            raise ExpressionError("E0405", message, opening, opening + 2, "give a part of it a name under `params:`")
        if text[at] in "'\"":
            closed = string_end(text, at)
            if closed is None:
                raise ExpressionError("E0420", "this text is not closed", at, at + 1, f"end it with {text[at]}")
            at = closed
        else:
            at += 1
    if at >= len(text):
        remedy = "close it with }, or write $${ for the characters themselves"
        raise ExpressionError("E0403", "this ${ is never closed", opening, opening + 2, remedy)
    return at


def _names(tree: Tree) -> set[str]:
    match tree:
        case Constant():
            return set()
        case Name():
            return {tree.name}
        case ListOf():
            inner = tree.items
        case Unary():
            inner = (tree.operand,)
        case Chain():
            inner = (tree.first, *(operand for _, operand in tree.rest))
        case Index():
            inner = (tree.base, *tree.indices)
        case Call():
            inner = tree.arguments
        case Conditional():
            inner = (tree.condition, tree.then, tree.otherwise)
    return set[str]().union(*map(_names, inner))


def _evaluate(tree: Tree, environment: Mapping[str, Value]) -> Value:
    match tree:
        case Name():
            return _look_up(tree, environment)
        case Constant():
            return tree.value
        case Chain():
            return _evaluate_chain(tree, environment)
        case Conditional():
            return _evaluate(tree.then if _holds(tree.condition, environment) else tree.otherwise, environment)
        case _:
            pass
    try:
        match tree:
            case ListOf():
                return bounded([_evaluate(item, environment) for item in tree.items])
            case Unary():
                if tree.operator == "not":
                    return not _holds(tree.operand, environment)
                return negate(_evaluate(tree.operand, environment))
            case Index():
                value = _evaluate(tree.base, environment)
                for position in tree.indices:
                    value = index(value, _evaluate(position, environment))
                return value
            case Call():
                return call(tree.function, [_evaluate(argument, environment) for argument in tree.arguments])
    except OperationError as fault:
        _refuse(fault, tree)


def _holds(tree: Tree, environment: Mapping[str, Value]) -> bool:
    value = _evaluate(tree, environment)
    try:
        return is_true(value)
    except OperationError as fault:
        _refuse(fault, tree)


def _evaluate_chain(tree: Chain, environment: Mapping[str, Value]) -> Value:
    value = _evaluate(tree.first, environment)
    for operator, operand in tree.rest:
        if operator == "or" or operator == "and":
            if bool(value) == (operator == "or"):
                return value
            value = _evaluate(operand, environment)
            continue
        right = _evaluate(operand, environment)
        try:
            value = compare(operator, value, right) if operator in _COMPARISONS else calculate(operator, value, right)
        except OperationError as fault:
            raise ExpressionError(fault.code, fault.message, tree.start, operand.end, fault.help) from None
    return value


def _look_up(tree: Name, environment: Mapping[str, Value]) -> Value:
    value = environment.get(tree.name)
    if value is None and tree.name not in environment:
        if tree.name.lower() in ("yes", "no", "on", "off"):
            remedy = "write true or false"
        else:
            near = did_you_mean(tree.name, environment) or ""
            remedy = (
                near if near.startswith("did") else f"define it under params:, or write '{tree.name}' if it is text"
            )
        message = f"the name {quoted(tree.name)} is not known here"
        raise ExpressionError("E0412", message, tree.start, tree.end, remedy)
    if type(value) is int and not -MAX_INT < value < MAX_INT:
        raise ExpressionError("E0416", f"{quoted(tree.name)} exceeds 2**63", tree.start, tree.end)
    return value


def _refuse(fault: OperationError, tree: Tree) -> NoReturn:
    raise ExpressionError(fault.code, fault.message, tree.start, tree.end, fault.help) from None


def _as_text(value: Value, part: Expression) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, list):
        kind = "null" if value is None else "a list"
        remedy = "only text, numbers and booleans can stand inside a longer text"
        raise fail("E0421", f"{kind} cannot stand inside a text", part.span, help=remedy)
    return str(value)


def _placed(fault: ExpressionError, text: str, span: Span) -> LlmcError:
    remedy = fault.help or _REMEDIES.get(fault.code)
    return fail(fault.code, fault.message, _within(span, text, fault.start, fault.end), help=remedy)


def _within(span: Span, text: str, start: int, end: int) -> Span:
    """The characters `start` to `end` of a scalar's text, or the whole scalar where they cannot be told apart."""
    quotes = span.end_column - span.column - len(text)
    if quotes not in (0, 2):
        return span
    column = span.column + quotes // 2
    return Span(file=span.file, line=span.line, column=column + start, end_column=column + max(end, start + 1))


_REMEDIES = {
    "E0401": "an expression has names, numbers, 'text', + - * / // %, comparisons, and, or, not, if else, [ ] and ( )",
    "E0402": "write it like num_heads * head_dim",
    "E0411": "`llmc explain E0410` names the functions, e.g. round_up(value, multiple)",
    "E0413": "numbers go with numbers and text with text; true and false are no numbers",
    "E0414": "give the divisor another value",
    "E0415": "make the list longer, or use index % len(list)",
    "E0416": "use smaller numbers",
    "E0417": "use a shorter one",
    "E0418": "give the function a value that it has a result for",
}
"""What to do about a mistake that says no more of itself."""

_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in", "not in"})
