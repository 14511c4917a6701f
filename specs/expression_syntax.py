"""The grammar of expressions: tokens to a small tree, by recursive descent.

From loose to tight: `a if c else b`, `or`, `and`, `not`, one comparison, `+ -`, `* / // %`, unary `-`, `x[i]`, atoms.
A chain of equal operators is one flat node, so that the tree is never deeper than the nesting that the text shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .diagnostics import did_you_mean, quoted
from .expression_tokens import ExpressionError, Token, number, string, tokens

MAX_CHARACTERS = 1000
MAX_NESTING = 32

FUNCTIONS: dict[str, tuple[int, int | None]] = {
    "len": (1, 1),
    "min": (1, None),
    "max": (1, None),
    "abs": (1, 1),
    "sqrt": (1, 1),
    "exp": (1, 1),
    "log": (1, 1),
    "floor": (1, 1),
    "ceil": (1, 1),
    "round": (1, 1),
    "round_up": (2, 2),
    "ceil_div": (2, 2),
    "range": (1, 1),
    "sum": (1, 1),
    "take": (2, 2),
    "where": (2, 2),
}
"""Every function, with the least and the most arguments that it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Every node knows its characters: `start` and the exclusive `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant(Place):
    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Name(Place):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOf(Place):
    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary(Place):
    """`-x` or `not x`."""

    operator: str
    operand: Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain(Place):
    """`first op x op y …`, operators of one level, from the left."""

    first: Tree
    rest: tuple[tuple[str, Tree], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Index(Place):
    """`base[i][j]…`."""

    base: Tree
    indices: tuple[Tree, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Place):
    function: str
    arguments: tuple[Tree, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditional(Place):
    condition: Tree
    then: Tree
    otherwise: Tree


Tree: TypeAlias = "Constant | Name | ListOf | Unary | Chain | Index | Call | Conditional"

_LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"or"}),
    frozenset({"and"}),
    frozenset({"==", "!=", "<", "<=", ">", ">=", "in", "not in"}),
    frozenset({"+", "-"}),
    frozenset({"*", "/", "//", "%"}),
)
_COMPARISON = 2
_CONSTANTS = {"true": True, "false": False, "null": None}
_PYTHON_CONSTANTS = {"True": "true", "False": "false", "None": "null"}


def parse_tree(text: str) -> Tree:
    """The tree of a whole expression. Raises ExpressionError."""
    if len(text) > MAX_CHARACTERS:
        message = f"this expression has {len(text)} characters, the most is {MAX_CHARACTERS}"
        raise ExpressionError("E0405", message, 0, len(text), "give a part of it a name under `params:`")
    return _Parser(tokens(text)).whole()


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.nesting = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def next(self) -> Token:
        token = self.token
        self.at += token.kind != "end"
        return token

    def sees(self, *texts: str) -> bool:
        return self.token.kind in ("symbol", "keyword") and self.token.text in texts

    def expect(self, text: str, where: str) -> Token:
        if not self.sees(text):
            raise self.unexpected(f"expected `{text}` {where}")
        return self.next()

    def unexpected(self, wanted: str) -> ExpressionError:
        token = self.token
        end = max(token.end, token.start + 1)
        if token.text == "." and token.kind == "symbol":
            remedy = "an expression reads names, constants and x[i]"
            return ExpressionError("E0407", "an expression cannot read an attribute", token.start, end, remedy)
        if token.text == "**":
            return ExpressionError(
                "E0408", "there is no power operator", token.start, end, "write x * x, or exp and log"
            )
        found = "it ends" if token.kind == "end" else f"found {quoted(token.text)}"
        return ExpressionError("E0402", f"{wanted}, but {found}", token.start, end)

    def whole(self) -> Tree:
        if self.token.kind == "end":
            raise ExpressionError("E0404", "this expression is empty", 0, max(self.token.end, 1), "write a value")
        tree = self.expression()
        if self.token.kind != "end":
            raise self.unexpected("expected an operator")
        return tree

    def deeper(self) -> None:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            message = f"this expression nests more than {MAX_NESTING} levels deep"
            raise ExpressionError(
                "E0406", message, self.token.start, self.token.end, "name a part of it under `params:`"
            )

    def expression(self) -> Tree:
        self.deeper()
        then = self.chain(0)
        if self.sees("if"):
            self.next()
            condition = self.chain(0)
            self.expect("else", "after the condition")
            otherwise = self.expression()
            then = Conditional(start=then.start, end=otherwise.end, condition=condition, then=then, otherwise=otherwise)
        self.nesting -= 1
        return then

    def chain(self, level: int) -> Tree:
        if level == len(_LEVELS):
            return self.negative()
        if level == _COMPARISON and self.sees("not"):
            return self.unary(level)
        first = self.chain(level + 1)
        rest: list[tuple[str, Tree]] = []
        while (operator := self.operator(level)) is not None:
            if level == _COMPARISON and rest:
                remedy = "write `a < b and b < c`"
                place = self.tokens[self.at - 1]
                raise ExpressionError("E0409", "comparisons do not chain", place.start, place.end, remedy)
            rest.append((operator, self.chain(level + 1)))
        return Chain(start=first.start, end=rest[-1][1].end, first=first, rest=tuple(rest)) if rest else first

    def operator(self, level: int) -> str | None:
        """Takes the operator of this level that stands here, if one does."""
        if level == _COMPARISON and self.sees("not") and self.tokens[self.at + 1].text == "in":
            self.at += 2
            return "not in"
        return self.next().text if self.sees(*_LEVELS[level]) else None

    def unary(self, level: int) -> Tree:
        self.deeper()
        operator = self.next()
        operand = self.chain(level)
        self.nesting -= 1
        return Unary(start=operator.start, end=operand.end, operator=operator.text, operand=operand)

    def negative(self) -> Tree:
        if self.sees("-"):
            return self.unary(len(_LEVELS))
        base = self.atom()
        indices: list[Tree] = []
        end = base.end
        while self.sees("["):
            self.next()
            indices.append(self.expression())
            end = self.expect("]", "after the index").end
        return Index(start=base.start, end=end, base=base, indices=tuple(indices)) if indices else base

    def atom(self) -> Tree:
        token = self.token
        if token.kind == "number":
            return Constant(start=token.start, end=token.end, value=number(self.next()))
        if token.kind == "string":
            return Constant(start=token.start, end=token.end, value=string(self.next()))
        if token.kind == "keyword" and token.text in _CONSTANTS:
            return Constant(start=token.start, end=token.end, value=_CONSTANTS[self.next().text])
        if token.kind == "name":
            return self.name_or_call(self.next())
        if self.sees("("):
            self.next()
            inner = self.expression()
            self.expect(")", "to close the parenthesis")
            return inner
        if self.sees("["):
            self.next()
            items, end = self.items("]")
            return ListOf(start=token.start, end=end, items=items)
        raise self.unexpected("expected a value")

    def items(self, closing: str) -> tuple[tuple[Tree, ...], int]:
        """The expressions up to the closing bracket, and where that ends. A trailing comma is allowed."""
        items: list[Tree] = []
        while not self.sees(closing):
            items.append(self.expression())
            if not self.sees(closing):
                self.expect(",", f"or `{closing}`")
        return tuple(items), self.next().end

    def name_or_call(self, name: Token) -> Tree:
        if not self.sees("("):
            if name.text in _PYTHON_CONSTANTS:
                remedy = f"write {_PYTHON_CONSTANTS[name.text]}"
                raise ExpressionError("E0419", f"{name.text} is spelled as in YAML", name.start, name.end, remedy)
            return Name(start=name.start, end=name.end, name=name.text)
        if name.text not in FUNCTIONS:
            remedy = did_you_mean(name.text, FUNCTIONS) or "the functions are: " + ", ".join(FUNCTIONS)
            raise ExpressionError("E0410", f"there is no function {quoted(name.text)}", name.start, name.end, remedy)
        self.next()
        arguments, end = self.items(")")
        least, most = FUNCTIONS[name.text]
        if len(arguments) < least or (most is not None and len(arguments) > most):
            wanted = f"{least} or more" if most is None else str(least)
            message = f"{name.text} takes {wanted} argument{'' if wanted == '1' else 's'}, not {len(arguments)}"
            raise ExpressionError("E0411", message, name.start, end)
        return Call(start=name.start, end=end, function=name.text, arguments=arguments)
