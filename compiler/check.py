"""Checks the written form of a spec: the schema of the file, then the schema of each node's op.

jsonschema finds the mistakes; each becomes one diagnostic here, which points at the key or value and names the
nearest allowed one. What an expression evaluates to is checked later, where it is evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from ..specs.diagnostics import Diagnostic, did_you_mean, gathered, printable, quoted
from ..specs.source import Span, YamlEntry, YamlList, YamlMap, YamlNode, plain
from .check_names import check_names
from .fields import GATED, choice_help, kind_of, show_value
from .legal import fits
from .ops import OP_INDEX, OPS
from .ops.activation import ACTIVATIONS
from .ops.declaration import Value
from .schema import BLOCK_NODE_SCHEMA, Schema, node_schema, structure_schema

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

LANGUAGE_VERSION = 1
MAX_REMEMBERED = 2000
"""Characters of a node that is remembered as legal."""
PUBLIC_OPS = tuple(op.name for op in OPS if not op.is_internal)
_OTHER_NAMES = {
    **dict.fromkeys(("dense", "fc", "matmul", "projection", "proj"), 'did you mean "linear"?'),
    **dict.fromkeys(("residual", "sum", "plus"), 'did you mean "add"?'),
    **dict.fromkeys(("multiply", "gate", "hadamard"), 'did you mean "mul"?'),
    **dict.fromkeys(
        ("sdpa", "mha", "gqa", "mqa", "self_attention", "multi_head_attention"), 'did you mean "attention"?'
    ),
    **dict.fromkeys(("mla",), 'did you mean "latent_attention"?'),
    **dict.fromkeys(("ssm", "recurrence", "selective_scan"), 'did you mean "scan"?'),
    **dict.fromkeys(("moe",), "a mixture of experts is two nodes: op: router, then op: experts"),
    **dict.fromkeys(
        ("mlp", "ffn", "feed_forward"), "an MLP is a block of linears, an activation and mul; see specs/llama.yaml"
    ),
    **{kind: f"write op: activation, kind: {kind}" for kind in ACTIVATIONS},
    **{kind: choice_help(kind, ()) for kind in GATED},
}
"""What the ops of other frameworks are called here."""

_MEANT = {
    **dict.fromkeys(("dim", "size", "units", "out", "d_out", "d_model", "width", "hidden_size"), "features"),
    **dict.fromkeys(("input", "inputs", "x", "from"), "in"),
    **dict.fromkeys(("act", "type", "function", "activation"), "kind"),
    **dict.fromkeys(("epsilon", "rms_norm_eps", "layer_norm_eps"), "eps"),
    **dict.fromkeys(("num_embeddings", "vocab_size", "vocab"), "rows"),
    **dict.fromkeys(("outputs", "output", "returns"), "out"),
    **dict.fromkeys(("times", "count", "num_layers", "n"), "repeat"),
    **dict.fromkeys(("base", "inherits", "parent"), "extends"),
    **dict.fromkeys(("version", "llmc_version"), "llmc"),
    **dict.fromkeys(("model", "layers"), "graph"),
    **dict.fromkeys(("parameters", "args", "arguments"), "params"),
    **dict.fromkeys(("rate", "prob", "dropout"), "p"),
}
"""Keys that are near nothing by their letters, but by what they mean."""

_TYPE_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map",
    "null": "null",
}


def check_structure(root: YamlMap) -> list[Diagnostic]:
    """Every mistake in the written form and in names, in source order."""
    found = _check_version(root)
    found += _apply(_structure(), root, "the spec")
    for nodes in _node_maps(root):
        for name, entry in nodes.entries.items():
            if isinstance(entry.value, YamlMap):
                found += _check_node(name, entry.key_span, entry.value)
    found += check_names(root)
    found += _check_config_params(root)
    if root.get("graph") is None:
        remedy = "write graph: {in: …, nodes: …, out: …}, or extend a spec that has one"
        found.append(Diagnostic(code="E0202", message="the spec needs the key 'graph'", span=root.span, help=remedy))
    return [*gathered(found).diagnostics]


def _check_version(root: YamlMap) -> list[Diagnostic]:
    entry = root.entries.get("llmc")
    version = plain(entry.value) if entry is not None else None
    if entry is None or not isinstance(version, int) or isinstance(version, bool) or version == LANGUAGE_VERSION:
        return []
    message = f"this file is in version {version} of the language; this llmc reads version {LANGUAGE_VERSION}"
    return [Diagnostic(code="E0206", message=message, span=entry.value.span, help=f"write llmc: {LANGUAGE_VERSION}")]


def _check_config_params(root: YamlMap) -> list[Diagnostic]:
    """What `config:` maps are params of the spec."""
    config, declared = root.get("config"), root.get("params")
    mapped = config.get("params") if isinstance(config, YamlMap) else None
    known: Mapping[str, YamlEntry] = declared.entries if isinstance(declared, YamlMap) else {}
    return [
        Diagnostic(
            code="E0433",
            message=f"config maps {quoted(key)}, but the spec has no such param",
            span=entry.key_span,
            help=did_you_mean(key, known) or "write our_param: their_key",
        )
        for key, entry in (mapped.entries.items() if isinstance(mapped, YamlMap) else ())
        if key not in known
    ]


def _node_maps(root: YamlMap) -> Iterator[YamlMap]:
    """The `nodes:` of the graph and of every block."""
    blocks = root.get("blocks")
    holders = [entry.value for entry in blocks.entries.values()] if isinstance(blocks, YamlMap) else []
    for holder in (*holders, root.get("graph")):
        nodes = holder.get("nodes") if isinstance(holder, YamlMap) else None
        if isinstance(nodes, YamlMap):
            yield nodes


def _check_node(name: str, key_span: Span, node: YamlMap) -> list[Diagnostic]:
    op, block = node.get("op"), node.get("block")
    found = [
        Diagnostic(
            code="E0201",
            message=f"{quoted(name)} has {key}: without {needs}:",
            span=node.entries[key].key_span,
            help=f"{key}: only means something beside {needs}:",
        )
        for key, needs in (("else", "when"), ("own", "share"))
        if key in node.entries and needs not in node.entries
    ]
    if op is not None and block is not None:
        span, remedy = node.entries["block"].key_span, "keep one of them"
        return [Diagnostic(code="E0208", message=f"{quoted(name)} has both op: and block:", span=span, help=remedy)]
    if block is not None:
        return [*found, *_apply_to_node("", node, f"the use of a block {quoted(name)}")]
    if op is None:
        near = get_close_matches("op", node.entries, cutoff=0.5) or get_close_matches("block", node.entries)
        remedy = f"{near[0]}: may be meant as that; " if near else ""
        return [
            Diagnostic(
                code="E0202",
                message=f"{quoted(name)} says neither op: nor block:",
                span=key_span,
                help=remedy + "begin the node with op: NAME or block: NAME",
            )
        ]
    named = plain(op)
    if not isinstance(named, str):
        message, remedy = f"op must be the name of an op, not {_kind_of(op)}", "`llmc schema` lists the ops"
        return [Diagnostic(code="E0203", message=message, span=op.span, help=remedy)]
    if named not in PUBLIC_OPS:
        message = f"there is no op {quoted(named)}"
        return [Diagnostic(code="E0306", message=message, span=op.span, help=_op_help(named))]
    return [*found, *_apply_to_node(named, node, f"op {named}")]


def _op_help(named: str) -> str:
    if "${" in named:
        return "an op is named outright; pick between blocks, as in block: ${...}, or give each op a when:"
    known = _OTHER_NAMES.get(named.lower().replace("-", "_"))
    if known is not None:
        return known
    near = get_close_matches(named.lower()[:64].replace("-", "_"), PUBLIC_OPS, n=1)
    return f'did you mean "{near[0]}"?' if near else "`llmc schema` lists the ops"


@lru_cache(maxsize=1)
def _structure() -> Schema:
    return structure_schema()


@lru_cache(maxsize=256)
def _node(op: str) -> Schema:
    """Of the nodes of one op, or of uses of blocks where `op` is empty."""
    return node_schema(OP_INDEX[op]) if op else BLOCK_NODE_SCHEMA


def _apply_to_node(op: str, node: YamlMap, what: str) -> list[Diagnostic]:
    """The mistakes of one node. Equal nodes, of which blocks and specs that extend one another have many, are asked
    about once."""
    text = json.dumps(plain(node))
    if len(text) <= MAX_REMEMBERED and _is_legal(op, text):
        return []
    return _apply(_node(op), node, what)


@lru_cache(maxsize=4096)
def _is_legal(op: str, text: str) -> bool:
    return fits(_node(op), json.loads(text))


def _apply(schema: Schema, node: YamlNode, what: str) -> list[Diagnostic]:
    value = cast("Any", plain(node))
    if fits(schema, value):
        return []
    from jsonschema import Draft202012Validator  # it takes as long to import as everything else here

    validator = Draft202012Validator(schema)
    errors = cast("Iterator[ValidationError]", validator.iter_errors(value))  # pyright: ignore[reportUnknownMemberType]
    found: list[Diagnostic] = []
    for error in sorted(errors, key=lambda e: e.validator == "required"):
        found += _translate(error, node, what, found)
    return found


def _translate(error: ValidationError, root: YamlNode, what: str, earlier: list[Diagnostic]) -> list[Diagnostic]:
    path = [part for part in error.absolute_path]
    node, key_span = _locate(root, path)
    where = _where(path, what)
    schema = cast("dict[str, Any]", error.schema)

    def one(code: str, message: str, help: str | None = None, span: Span | None = None) -> list[Diagnostic]:
        remedy = help or str(schema.get("description") or "see `llmc schema`")
        return [Diagnostic(code=code, message=message, span=span or node.span, help=remedy)]

    match error.validator:
        case "additionalProperties" if isinstance(node, YamlMap):
            allowed = [*schema.get("properties", {})]
            unknown = [e for key, e in node.entries.items() if key not in allowed and not key.startswith("x-")]
            return [d for e in unknown for d in _unknown_key(e, where, allowed, node)]
        case "required":
            missing = [
                key for key in cast("list[str]", error.validator_value) if f"{key!r} is a required" in error.message
            ]
            misspelt = " ".join(d.help or "" for d in earlier if d.code == "E0201")
            return [
                d
                for key in missing
                if f'"{key}"' not in misspelt
                for d in one("E0202", f"{where} needs the key {key!r}", _add_help(key, schema), key_span)
            ]
        case "type":
            allowed = cast("list[str] | str", error.validator_value)
            names = [_TYPE_NAMES[t] for t in ([allowed] if isinstance(allowed, str) else allowed)]
            return one("E0203", f"{where} must be {' or '.join(names)}, not {_kind_of(node)}")
        case "enum" | "anyOf":
            choices = [str(choice) for choice in _choices(error)]
            return one("E0204", f"{where} cannot be {_kind_of(node)}", choice_help(str(plain(node)), choices))
        case "minimum" | "maximum":
            bound = "at least" if error.validator == "minimum" else "at most"
            return one("E0205", f"{where} must be {bound} {error.validator_value}, not {plain(node)}")
        case "minItems" | "minProperties":
            return one("E0205", f"{where} is empty", "it needs at least one entry")
        case _:
            return one("E0203", f"{where} is malformed")


def _unknown_key(entry: YamlEntry, where: str, allowed: list[str], holder: YamlMap) -> list[Diagnostic]:
    if isinstance(entry.value, YamlMap) and "nodes" in allowed and {"op", "block"} & entry.value.entries.keys():
        remedy = "a node stands under nodes:"
    elif entry.key.count(")") > entry.key.count("("):
        remedy = "a comma ends a value inside { }: put the expression before it between quotes"
    elif entry.key in _MEANT and _MEANT[entry.key] in allowed and _MEANT[entry.key] not in holder.entries:
        remedy = f'did you mean "{_MEANT[entry.key]}"?'
    else:
        remedy = did_you_mean(entry.key, allowed) or (
            "notes go under keys that begin with x-" if allowed else "write the name alone"
        )
    message = f"{where} has no key {quoted(entry.key)}"
    return [Diagnostic(code="E0201", message=message, span=entry.key_span, help=remedy)]


def _add_help(key: str, schema: dict[str, Any]) -> str:
    about = schema.get("properties", {}).get(key, {}).get("description")
    return f"add {key}: …" + (f" ({about[0].lower()}{about[1:]})" if about else "")


def _where(path: list[str | int], what: str) -> str:
    """What a message calls the place: the key, or the item of a list by its number."""
    if not path:
        return what
    last = path[-1]
    if isinstance(last, str):
        return printable(last[:64])
    return f"item {last + 1} of {path[-2]}" if len(path) > 1 else f"item {last + 1}"


def _choices(error: ValidationError) -> list[object]:
    if error.validator == "enum":
        return cast("list[object]", error.validator_value)
    branches = cast("list[dict[str, list[object]]]", error.validator_value)
    return [choice for branch in branches for choice in branch.get("enum", []) if choice is not None]


def _kind_of(node: YamlNode) -> str:
    value = cast("Value", plain(node))
    if isinstance(value, (bool, list, dict)) or value is None:
        return show_value(value) if isinstance(value, bool) else kind_of(value)
    return f"{kind_of(value)} {show_value(value)}"


def _locate(root: YamlNode, path: list[str | int]) -> tuple[YamlNode, Span | None]:
    """The YAML at a jsonschema path, and the span of its key."""
    node, key_span = root, None
    for part in path:
        if isinstance(node, YamlMap) and isinstance(part, str):
            entry = node.entries[part]
            node, key_span = entry.value, entry.key_span
        elif isinstance(node, YamlList) and isinstance(part, int):
            node, key_span = node.items[part], None
    return node, key_span
