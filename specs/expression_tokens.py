"""The tokens of expressions, and the values of number and string literals."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .diagnostics import quoted

MAX_INT = 2**63


class ExpressionError(Exception):
    """A mistake at characters `start` to `end` of an expression; it has no file yet."""

    def __init__(self, code: str, message: str, start: int, end: int, help: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.start, self.end, self.help = code, message, start, end, help


_KEYWORDS = frozenset({"and", "or", "not", "in", "if", "else", "true", "false", "null"})
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
_TOKEN = re.compile(
    r"""[ \t\r\n]+
    | (?P<number> (?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+) (?:[eE][-+]?[0-9]+)? )
    | (?P<name> [A-Za-z_][A-Za-z0-9_]* )
    | (?P<string> '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" )
    | (?P<symbol> \*\*|//|==|!=|<=|>=|[-+*/%<>()\[\],.] )
    | (?P<bad> . )""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    kind: str  # number, name, keyword, string, symbol or end
    text: str
    start: int
    end: int


def string_end(text: str, start: int) -> int | None:
    """Where the string literal that opens at `start` ends, or None where it never closes."""
    match = _TOKEN.match(text, start)
    return match.end() if match and match.lastgroup == "string" else None


def tokens(text: str) -> list[Token]:
    """The tokens of an expression; the last one is of kind `end`. Raises ExpressionError."""
    found: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind, piece = match.lastgroup, match.group()
        if kind is None:
            continue
        if kind == "bad":
            raise _bad_character(piece, match.start())
        if kind == "name" and piece in _KEYWORDS:
            kind = "keyword"
        found.append(Token(kind=kind, text=piece, start=match.start(), end=match.end()))
    found.append(Token(kind="end", text="", start=len(text), end=len(text)))
    return found


def _bad_character(character: str, start: int) -> ExpressionError:
    if character in "'\"":
        return ExpressionError("E0420", "this text is not closed", start, start + 1, f"end it with {character}")
    remedies = {"=": "compare with ==", "!": "write `not` or !=", "&": "write `and`", "|": "write `or`"}
    remedies |= {"$": "inside an expression a name stands without ${}", "{": "there are no maps; lists are [a, b]"}
    message = f"the character {quoted(character)} has no meaning in an expression"
    return ExpressionError("E0401", message, start, start + 1, remedies.get(character))


def number(token: Token) -> int | float:
    """The value of a number literal. Raises ExpressionError where it is out of bounds."""
    is_whole = token.text.isdigit()
    digits = token.text.lstrip("0") or "0"
    value = int(digits) if is_whole and len(digits) < 20 else float(token.text)
    if value >= MAX_INT if is_whole else value == float("inf"):
        limit = "2**63" if is_whole else "the largest float"
        raise ExpressionError("E0416", f"this number exceeds {limit}", token.start, token.end)
    return value


def string(token: Token) -> str:
    """The text of a string literal. Raises ExpressionError at an unknown escape."""
    pieces: list[str] = []
    inner = iter(enumerate(token.text[1:-1], token.start + 1))
    for at, character in inner:
        if character == "\\":
            _, escaped = next(inner)
            if escaped not in _ESCAPES:
                remedy = "the escapes are \\\\ \\' \\\" \\n \\t"
                raise ExpressionError("E0420", f"there is no escape {quoted(escaped)}", at, at + 2, remedy)
            character = _ESCAPES[escaped]
        pieces.append(character)
    return "".join(pieces)
