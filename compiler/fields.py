"""Evaluates one written field to a value of its declared kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import cast

from ..specs.diagnostics import LlmcError, fail, printable
from ..specs.expression_tokens import MAX_INT
from ..specs.expressions import Value as ExpressionValue
from ..specs.expressions import evaluate, evaluate_template, parse, parse_template
from ..specs.source import YamlList, YamlMap, YamlNode, YamlScalar
from .names import check_name
from .ops.declaration import Field, FieldKind, Value

Environment = Mapping[str, Value]

GATED = {"swiglu": "silu", "geglu": "gelu", "reglu": "relu"}
"""Activations of other frameworks that are several nodes here."""

KIND_NAMES: Mapping[FieldKind, str] = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "int_list": "a list of whole numbers",
    "float_list": "a list of numbers",
    "int_map": "a map of whole numbers",
}


def evaluate_scalar(node: YamlScalar, environment: Environment, *, is_text: bool) -> Value:
    """The value of one scalar. Text is an expression unless `is_text`; `${…}` is one in both."""
    if not isinstance(node.value, str) or (is_text and "${" not in node.value):
        return node.value
    known = cast("Mapping[str, ExpressionValue]", environment)
    template = parse_template(node.value, node.span)
    if template.is_plain:
        return node.value if is_text else cast("Value", evaluate(parse(node.value, node.span), known))
    return cast("Value", evaluate_template(template, known))


def evaluate_node(node: YamlNode, environment: Environment, *, is_text: bool) -> Value:
    """The value of any YAML: lists and maps are evaluated item by item."""
    match node:
        case YamlScalar():
            return evaluate_scalar(node, environment, is_text=is_text)
        case YamlList():
            return [evaluate_node(item, environment, is_text=is_text) for item in node.items]
        case YamlMap():
            return {key: evaluate_node(e.value, environment, is_text=is_text) for key, e in node.entries.items()}


def evaluate_condition(node: YamlNode, environment: Environment) -> bool:
    """What `when:` says. Raises LlmcError E0207 where it is neither true nor false: text such as `yes`, or a number."""
    value = evaluate_node(node, environment, is_text=False)
    if not isinstance(value, bool):
        remedy = "write true, false, or a comparison, e.g. num_experts > 0"
        raise fail("E0207", f"when must be true or false, not {show_value(value)}", node.span, help=remedy)
    return value


def names_in(node: YamlNode | None, *, is_text: bool) -> set[str]:
    """The free names of every expression in the node. Raises LlmcError where one is malformed."""
    match node:
        case None:
            return set()
        case YamlScalar():
            if not isinstance(node.value, str):
                return set()
            template = parse_template(node.value, node.span)
            if template.is_plain:
                return set() if is_text else set(parse(node.value, node.span).names)
            return set(template.names)
        case YamlList():
            return set[str]().union(*(names_in(item, is_text=is_text) for item in node.items))
        case YamlMap():
            return set[str]().union(*(names_in(e.value, is_text=is_text) for e in node.entries.values()))


def evaluate_field(field: Field, node: YamlNode, environment: Environment) -> Value:
    """The value of `field` as written at `node`, checked against its kind, choices and minimum.

    Raises LlmcError E0207 where the value is of another kind, E0204 where it is no choice, E0205 where it is too small.
    """
    value = evaluate_node(node, environment, is_text=field.kind == "str")
    if value is None and (field.is_nullable or field.default is None) and not field.is_required:
        return None
    typed = _convert(value, field.kind)
    if typed is None:
        raise fail(
            "E0207",
            f"{field.name} must be {KIND_NAMES[field.kind]}, not {show_value(value)}",
            node.span,
            help="use // or round() for a whole number" if isinstance(value, float) else f"{field.name}: {field.doc}",
        )
    if field.choices and typed not in field.choices:
        raise fail(
            "E0204",
            f"{field.name} cannot be {show_value(typed)}",
            node.span,
            help=choice_help(str(typed), field.choices),
        )
    low = [number for number in _numbers(typed) if field.minimum is not None and number < field.minimum]
    if low:
        span = node.span
        if isinstance(node, YamlList) and isinstance(typed, list):
            span = node.items[typed.index(low[0])].span
        message = f"{field.name} must be at least {field.minimum:g}, not {show_value(low[0])}"
        raise fail("E0205", message, span, help=f"{field.name}: {field.doc}")
    if any(math.isnan(number) for number in _numbers(typed)):
        raise fail("E0205", f"{field.name} cannot be nan", node.span, help="write a number, or .inf for no bound")
    if field.kind == "int_map":
        _check_parts(field, cast("dict[str, int]", typed), node)
    return typed


def _numbers(value: Value) -> list[int | float]:
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def _check_parts(field: Field, parts: Mapping[str, int], node: YamlNode) -> None:
    """The parts that a node cuts a value into: each has a legal name and a positive size."""
    if not parts:
        raise fail(
            "E0205", f"{field.name} must name at least one part", node.span, help="write {name: size, name: size}"
        )
    for name, size in parts.items():
        entry = node.entries[name] if isinstance(node, YamlMap) else None
        problem = check_name(name, "a part", entry.key_span if entry else node.span, is_path=False)
        if problem is not None:
            raise LlmcError([problem])
        if not 0 < size < MAX_INT:
            span = entry.value.span if entry else node.span
            raise fail("E0205", f"the part {name} must have at least 1 feature, not {size}", span,
                       help="give it a positive size, or leave it out")  # fmt: skip


def choice_help(value: str, choices: Iterable[str]) -> str:
    """What to write in place of a value that is no choice: the nearest one, and all of them."""
    listed = [*choices]
    if value in GATED:
        return f"{value} is a gate: op: activation with kind: {GATED[value]} over one linear, then op: mul with another"
    near = get_close_matches(value[:64], listed, n=1)
    return (f'did you mean "{near[0]}"? ' if near else "") + "one of: " + ", ".join(listed)


def _convert(value: Value, kind: FieldKind) -> Value:
    """The value as `kind`, None where it is of another kind. An int serves as a float; nothing else is converted."""
    match kind:
        case "int":
            return value if isinstance(value, int) and not isinstance(value, bool) else None
        case "float":
            return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        case "bool":
            return value if isinstance(value, bool) else None
        case "str":
            return value if isinstance(value, str) else None
        case "int_list" | "float_list":
            if not isinstance(value, list):
                return None
            items = [_convert(item, "int" if kind == "int_list" else "float") for item in value]
            return None if None in items else items
        case "int_map":
            if not isinstance(value, dict):
                return None
            sizes = {key: _convert(item, "int") for key, item in value.items()}
            return None if None in sizes.values() else sizes


def kind_of(value: Value) -> str:
    """What messages call the kind of a value."""
    match value:
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "a map"
        case None:
            return "null"


def show_value(value: Value) -> str:
    """A value as an error prints it, cut to a sane length."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    text = printable(
        f"'{value[:60]}'" if isinstance(value, str) else repr(value[:20] if isinstance(value, list) else value)
    )
    return text if len(text) <= 60 else text[:57] + "..."


def comparable(value: Value) -> object:
    """What is equal, and hashes equal, for equal values of one kind only: 1, 1.0 and true are three."""
    if isinstance(value, list):
        return tuple(comparable(item) for item in value)
    if isinstance(value, dict):
        return tuple((key, comparable(item)) for key, item in value.items())
    return (type(value).__name__, value)
