"""Expressions and templates: values, precedence, every diagnostic with its caret, and the bounds."""

from __future__ import annotations

import random
import time

import pytest

from llmc.specs.diagnostics import LlmcError
from llmc.specs.expression_syntax import FUNCTIONS
from llmc.specs.expressions import Value, evaluate, evaluate_template, parse, parse_template
from llmc.specs.source import Span

NAMES: dict[str, Value] = {
    "a": 3,
    "b": 4.0,
    "layer": 2,
    "num_heads": 32,
    "none": None,
    "yes": True,
    "kinds": ["x", "y", "z"],
    "text": "abc",
    "infinite": float("inf"),
    "huge": 2**70,
}


def span_of(text: str, *, quotes: int = 0) -> Span:
    return Span(file="x.yaml", line=3, column=10, end_column=10 + len(text) + quotes)


def value(text: str) -> Value:
    return evaluate(parse(text, span_of(text)), NAMES)


def template(text: str) -> Value:
    return evaluate_template(parse_template(text, span_of(text)), NAMES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("2 * 3 % 4", 2),
        ("-a * 2", -6),
        ("2 * -a", -6),
        ("--a", 3),
        ("-7 // 2", -4),
        ("-7 % 4", 1),
        ("6 / 2", 3.0),
        ("7.5 // 2", 3.0),
        ("1e3", 1000.0),
        (".5 + 1.", 1.5),
        ("1 < 2", True),
        ("2 <= 1", False),
        ("'a' < 'b'", True),
        ("1 == 1.0", True),
        ("true == 1", False),
        ("'1' == 1", False),
        ("none == null", True),
        ("[1, [2]] == [1, [2.0]]", True),
        ("a != 3", False),
        ("'y' in kinds", True),
        ("'q' not in kinds", True),
        ("not 'y' in kinds", False),
        ("true in [1]", False),
        ("'b' in text", True),
        ("not yes or a == 3", True),
        ("none or a", 3),
        ("yes and a", 3),
        ("none and missing", None),
        ("true or false and false", True),
        ("1 if yes else 2", 1),
        ("1 if not yes else 2 if a == 3 else 4", 2),
        ("1 if yes else missing", 1),
        ("kinds[layer]", "z"),
        ("kinds[-3]", "x"),
        ("text[1]", "b"),
        ("[[1, 2], [3]][0][1]", 2),
        ("[1, 2] * 2 + [3]", [1, 2, 1, 2, 3]),
        ("2 * [1]", [1, 1]),
        ("[]", []),
        ("[1, 2,]", [1, 2]),
        ("'a' + \"b\"", "ab"),
        (r"'it\'s'", "it's"),
        (r'"a\\b\n"', "a\\b\n"),
        ("len(kinds) + len('ab')", 5),
        ("min(3, 1, 2)", 1),
        ("max([3, 1])", 3),
        ("abs(-a)", 3),
        ("sqrt(16)", 4.0),
        ("exp(0)", 1.0),
        ("log(1)", 0.0),
        ("floor(2.7)", 2),
        ("ceil(2.1)", 3),
        ("round(2.6)", 3),
        ("round_up(100, 64)", 128),
        ("round_up(128, 64)", 128),
        ("ceil_div(7, 2)", 4),
        ("range(3)", [0, 1, 2]),
        ("sum(range(5))", 10),
        ("sum([])", 0),
        ("take([1, 2, 3], 2)", [1, 2]),
        ("take([1], 0)", []),
        ("where(['a', 'b', 'a'], 'a')", [0, 2]),
        ("where([1, 2], 3)", []),
        ("-infinite", float("-inf")),
        ("9223372036854775807", 2**63 - 1),
        ("0" * 90 + "7", 7),
        ("1\n + 2", 3),
        ("+".join(["1"] * 500), 500),
        ("(" * 31 + "1" + ")" * 31, 1),
    ],
)
def test_values(text: str, expected: Value) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "code", "start", "end"),
    [
        ("a & 3", "E0401", 2, 3),
        ("a = 3", "E0401", 2, 3),
        ("é", "E0401", 0, 1),
        ("{1: 2}", "E0401", 0, 1),
        ("a +", "E0402", 3, 4),
        ("(a", "E0402", 2, 3),
        ("a)", "E0402", 1, 2),
        ("1 2", "E0402", 2, 3),
        ("a if yes", "E0402", 8, 9),
        ("[1 2]", "E0402", 3, 4),
        ("+ 1", "E0402", 0, 1),
        ("lambda: 1", "E0401", 6, 7),
        ("", "E0404", 0, 1),
        ("  ", "E0404", 0, 2),
        ("1" * 1001, "E0405", 0, 1001),
        ("(" * 33 + "1" + ")" * 33, "E0406", 32, 33),
        ("-" * 40 + "1", "E0406", 31, 32),
        ("not " * 40 + "yes", "E0406", 124, 127),
        ("[" * 300, "E0406", 32, 33),
        ("1 if yes else " * 50 + "1", "E0406", 448, 449),
        ("text.upper", "E0407", 4, 5),
        ("text.__class__()", "E0407", 4, 5),
        ("2 ** 9", "E0408", 2, 4),
        ("1 < a < 4", "E0409", 6, 7),
        ("open('x')", "E0410", 0, 4),
        ("ro_und(1)", "E0410", 0, 6),
        ("kinds(1)", "E0410", 0, 5),
        ("1 + len(1, 2)", "E0411", 4, 13),
        ("min()", "E0411", 0, 5),
        ("1 + num_head", "E0412", 4, 12),
        ("__import__", "E0412", 0, 10),
        ("1 + (2 * 'x')", "E0413", 5, 12),
        ("text * 2", "E0413", 0, 8),
        ("yes + 1", "E0413", 0, 7),
        ("none < 1", "E0413", 0, 8),
        ("'a' < 1", "E0413", 0, 7),
        ("-text", "E0413", 0, 5),
        ("a[0]", "E0413", 0, 4),
        ("kinds['x']", "E0413", 0, 10),
        ("kinds[true]", "E0413", 0, 11),
        ("1 in 2", "E0413", 0, 6),
        ("text % 1", "E0413", 0, 8),
        ("len(1)", "E0413", 0, 6),
        ("sum(kinds)", "E0413", 0, 10),
        ("round_up(1.5, 2)", "E0413", 0, 16),
        ("1 / 0", "E0414", 0, 5),
        ("1 // (a - 3)", "E0414", 0, 11),
        ("1.5 % 0.0", "E0414", 0, 9),
        ("ceil_div(1, 0)", "E0414", 0, 14),
        ("kinds[3]", "E0415", 0, 8),
        ("kinds[-4]", "E0415", 0, 9),
        ("[][0]", "E0415", 0, 5),
        ("9223372036854775808", "E0416", 0, 19),
        ("9" * 900, "E0416", 0, 900),
        ("1e999", "E0416", 0, 5),
        ("9223372036854775807 + 1", "E0416", 0, 23),
        ("1e308 * 10", "E0416", 0, 10),
        ("infinite - infinite", "E0416", 0, 19),
        ("exp(1000)", "E0416", 0, 9),
        ("floor(infinite)", "E0416", 0, 15),
        ("huge", "E0416", 0, 4),
        ("range(10001)", "E0417", 0, 12),
        ("[0] * 10001", "E0417", 0, 11),
        ("[0] * 9223372036854775807", "E0417", 0, 25),
        ("[[[0] * 99] * 99] * 99", "E0417", 0, 22),
        ("[[]] * 10001", "E0417", 0, 12),
        ("sqrt(-1)", "E0418", 0, 8),
        ("log(0)", "E0418", 0, 6),
        ("max([])", "E0418", 0, 7),
        ("ceil_div(1, -1)", "E0418", 0, 15),
        ("True", "E0419", 0, 4),
        ("a == None", "E0419", 5, 9),
        ("'abc", "E0420", 0, 1),
        (r"'a\q'", "E0420", 2, 4),
    ],
)
def test_mistakes_and_their_places(text: str, code: str, start: int, end: int) -> None:
    with pytest.raises(LlmcError) as caught:
        value(text)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code
    assert diagnostic.span is not None
    assert (diagnostic.span.line, diagnostic.span.column - 10) == (3, start)
    assert diagnostic.span.end_column - 10 == end


def test_near_names_are_suggested() -> None:
    with pytest.raises(LlmcError, match='did you mean "num_heads"'):
        value("num_head * 2")
    with pytest.raises(LlmcError, match='did you mean "round"'):
        value("roundd(2)")


def test_free_names() -> None:
    expression = parse("[x[i], min(y, -z)] if not p and q < 1 else len('no')", span_of("")).names
    assert expression == {"x", "i", "y", "z", "p", "q"}


def test_a_quoted_scalar_shifts_the_caret_and_a_folded_one_is_taken_whole() -> None:
    for quotes, column in ((0, 14), (2, 15)):
        with pytest.raises(LlmcError) as caught:
            evaluate(parse("1 + missing", span_of("1 + missing", quotes=quotes)), NAMES)
        assert caught.value.diagnostics[0].span == Span(file="x.yaml", line=3, column=column, end_column=column + 7)
    folded = Span(file="x.yaml", line=1, column=1, end_column=5)
    with pytest.raises(LlmcError) as caught:
        evaluate(parse("1 + missing", folded), NAMES)
    assert caught.value.diagnostics[0].span == folded


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("a $ {b}", "a $ {b}"),
        ("${a}", 3),
        ("${ kinds }", ["x", "y", "z"]),
        ("${none}", None),
        ("layer_${layer}", "layer_2"),
        ("${a}${b}", "34.0"),
        ("${yes}!", "true!"),
        ("$${a}", "${a}"),
        ("$${a} ${a}", "${a} 3"),
        ("${'}'}", "}"),
        ("${'\\'}'}", "'}"),
        ("${'dense' if layer < a else \"}\"}", "dense"),
    ],
)
def test_templates(text: str, expected: Value) -> None:
    found = template(text)
    assert found == expected
    assert type(found) is type(expected)


def test_template_names_and_plainness() -> None:
    both = parse_template("${a + b}_${c}", span_of(""))
    assert (both.names, both.is_plain) == ({"a", "b", "c"}, False)
    assert parse_template("$${a}", span_of("")).is_plain
    assert parse_template("a", span_of("")).names == frozenset()


@pytest.mark.parametrize(
    ("text", "code", "start"),
    [
        ("x ${a", "E0403", 2),
        ("${", "E0403", 0),
        ("x${}", "E0404", 3),
        ("ab${a + missing}", "E0412", 8),
        ("${'a}", "E0420", 2),
        ("x ${kinds}", "E0421", 4),
        ("x ${none}", "E0421", 4),
        ("${" + "1+" * 2000 + "1}", "E0405", 0),
        ("${'" + "x" * 900 + "'}" * 1 + "${'" + "x" * 900 + "'}" + "y" * 3000, "E0417", 0),
    ],
)
def test_template_mistakes(text: str, code: str, start: int) -> None:
    with pytest.raises(LlmcError) as caught:
        template(text)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code
    assert diagnostic.span is not None
    assert diagnostic.span.column - 10 == start


def test_lists_that_grow_from_param_to_param_stay_bounded() -> None:
    environment: dict[str, Value] = {"x": [1]}
    for _ in range(32):
        environment["x"] = evaluate(parse("[x]", span_of("[x]")), environment)
    with pytest.raises(LlmcError, match="E0417"):
        evaluate(parse("[x]", span_of("[x]")), environment)


def test_random_strings_only_ever_raise_diagnostics() -> None:
    pieces = ["a", "b", "kinds", "text", "none", "yes", "missing", "huge", "1", "0", "2.5", "1e300", "'s'", '"', "'"]
    pieces += ["//", "**", "==", "<=", " and ", " or ", " not ", " in ", " if ", " else ", "${", "}", "[0]*"]
    pieces += [f"{name}(" for name in FUNCTIONS]
    pieces += "+-*/%<>()[],.=!{}$\\ \n\x00é"
    source = random.Random(0)
    seen: set[str] = set()
    for number in range(4000):
        text = "".join(source.choices(pieces, k=source.randrange(1, 10 if number % 20 else 300)))
        for run in (value, template):
            try:
                run(text)
                seen.add(run.__name__)
            except LlmcError as error:
                seen.update(diagnostic.code[:3] for diagnostic in error.diagnostics)
    assert seen == {"value", "template", "E04"}


def test_the_slowest_expressions_stay_quick() -> None:
    worst = "+".join(["len([0]*9999)"] * 70)
    started = time.perf_counter()
    assert value(worst) == 9999 * 70
    for text in ("'" + "\\" * 997, "(" * 999, "a" * 999, "." * 999, "[" * 999, "not " * 249):
        with pytest.raises(LlmcError):
            value(text)
    assert time.perf_counter() - started < 2
