"""The JSON Schema of the language, generated from the fields that the ops declare.

`node_schema(op)` is what `check` applies to one node; `spec_schema()` is the whole file, for editors: it dispatches on
`op` by if/then, because a `oneOf` over ops could only say that nothing matched. Only keywords that draft-07 also knows
are used.
"""

from __future__ import annotations

import json
from typing import TypeAlias

from .ops import OPS
from .ops.declaration import Field, FieldKind, Op

Schema: TypeAlias = dict[str, object]

_REFERENCE: Schema = {"type": ["string", "array"], "items": {"type": "string"}, "description": "A value, or several"}
_INPUTS: Schema = {
    "type": ["string", "array", "object"],
    "items": {"type": "string"},
    "additionalProperties": _REFERENCE,
    "description": "What flows in: a name, a list of names, or port -> name",
}
_NOTES: Schema = {"^x-": {}}
_CONDITION: Schema = {
    "when": {"type": ["boolean", "string"], "description": "false removes the node; its readers take `else`"},
    "else": {"type": "string", "description": "What readers take where `when` is false"},
}
_TYPES: dict[FieldKind, list[str]] = {
    "int": ["integer", "string"],
    "float": ["number", "string"],
    "bool": ["boolean", "string"],
    "str": ["string"],
    "int_list": ["array", "string"],
    "float_list": ["array", "string"],
    "int_map": ["object"],
}


def field_schema(field: Field) -> Schema:
    """What may be written at one field: a value of its kind, or an expression."""
    types = [*_TYPES[field.kind], *(["null"] if field.is_nullable or field.default is None else [])]
    schema: Schema = {"type": types if len(types) > 1 else types[0], "description": field.doc}
    if field.choices:
        schema["anyOf"] = [{"enum": [*field.choices, *([None] if "null" in types else [])]}, {"pattern": r"\$\{"}]
    if field.kind in ("int", "float") and field.minimum is not None:
        schema["minimum"] = field.minimum
    if field.kind in ("int_list", "float_list"):
        schema["items"] = {"type": _TYPES["int" if field.kind == "int_list" else "float"]}
    if field.kind == "int_map":
        schema["additionalProperties"] = {"type": _TYPES["int"]}
    return schema


def node_schema(op: Op) -> Schema:
    """One node of this op: its fields, its ports, and the keys that every node has."""
    properties: Schema = {"op": {"const": op.name}, "in": _INPUTS, **_CONDITION}
    properties.update({port.name: {**_REFERENCE, "description": port.doc} for port in op.ports})
    properties.update({field.name: field_schema(field) for field in op.fields})
    return {
        "type": "object",
        "description": op.summary,
        "properties": properties,
        "patternProperties": _NOTES,
        "required": ["op", *(field.name for field in op.fields if field.is_required)],
        "additionalProperties": False,
    }


BLOCK_NODE_SCHEMA: Schema = {
    "type": "object",
    "description": "A use of a block, once or repeated",
    "properties": {
        "block": {"type": "string", "description": "Name of a block, or an expression in `layer`"},
        "in": _INPUTS,
        "repeat": {"type": ["integer", "string"], "minimum": 0, "description": "How often; `layer` counts from 0"},
        "with": {"type": "object", "description": "Values for the block's own params"},
        "share": {"type": "string", "description": "Uses with the same name own one set of parameters"},
        "own": {"type": "array", "items": {"type": "string"}, "description": "Paths that stay per use in a share"},
        "overrides": {
            "type": "array",
            "description": "Fields that differ in some layers",
            "items": {
                "type": "object",
                "properties": {
                    "at": {"type": ["boolean", "string"], "description": "Expression in `layer`"},
                    "set": {"type": "object", "description": "node.path.field -> value"},
                },
                "required": ["at", "set"],
                "additionalProperties": False,
            },
        },
        **_CONDITION,
    },
    "patternProperties": _NOTES,
    "required": ["block"],
    "additionalProperties": False,
}

_ANY_NODE: Schema = {
    "type": "object",
    "allOf": [
        {"if": {"properties": {"op": {"const": op.name}}, "required": ["op"]}, "then": {"$ref": f"#/$defs/{op.name}"}}
        for op in OPS
        if not op.is_internal
    ]
    + [{"if": {"required": ["block"]}, "then": {"$ref": "#/$defs/block_node"}}],
    "anyOf": [{"required": ["op"]}, {"required": ["block"]}],
}


def _graph(*, is_block: bool) -> Schema:
    """`graph:` itself, whose inputs may say more than their name, or one entry of `blocks:`, which may have params."""
    declared: Schema = (
        {"type": ["object", "null"], "additionalProperties": False} if is_block else {"$ref": "#/$defs/input"}
    )
    params: Schema = {"params": {"type": "object", "description": "Local values; `with:` at a use sets them"}}
    some: Schema = {} if is_block else {"minItems": 1, "minProperties": 1}
    return {
        "type": "object",
        "properties": {
            "in": {**_INPUTS, "description": "Names of the inputs", **some, "additionalProperties": declared},
            **(params if is_block else {}),
            "nodes": {"type": "object", "additionalProperties": {"type": "object"}, "description": "name -> node"},
            "out": {
                "type": ["string", "array", "object"],
                "items": {"type": "string"},
                "additionalProperties": {"type": "string"},
                "minItems": 1,
                "minProperties": 1,
                "description": "What flows out: a node, several, or output -> node",
            },
        },
        "patternProperties": _NOTES,
        "required": ["in", "nodes", "out"],
        "additionalProperties": False,
    }


def structure_schema() -> Schema:
    """The file without its nodes: what `check` applies first."""
    return {
        "type": "object",
        "properties": {
            "llmc": {"type": "integer", "description": "Version of the language"},
            "name": {"type": "string", "description": "Name of the architecture, e.g. that of the file"},
            "summary": {"type": "string", "description": "What this architecture is, and where it is from"},
            "extends": {"type": "string", "description": "A packaged spec, or one beside this file"},
            "params": {"type": "object", "description": "Names and defaults; `${}` may use other params"},
            "blocks": {"type": "object", "additionalProperties": _graph(is_block=True)},
            "graph": _graph(is_block=False),
            "config": {"$ref": "#/$defs/config"},
            "weights": {"$ref": "#/$defs/weights"},
            "tokenizer": {"$ref": "#/$defs/tokenizer"},
            "generation": {"$ref": "#/$defs/generation"},
        },
        "patternProperties": _NOTES,
        "required": ["llmc", "name"],
        "additionalProperties": False,
        "$defs": _sections(),
    }


def _sections() -> Schema:
    strings: Schema = {"type": "array", "items": {"type": "string"}}
    number: Schema = {"type": ["number", "null"]}
    return {
        "input": {
            "type": "object",
            "properties": {
                "shape": {"type": "array", "items": {"type": ["integer", "string"]}},
                "dtype": {"enum": ["int64", "float", "bool"]},
                "rate": {"enum": ["stream", "once"]},
                "default": {"type": "integer", "description": "Value of an input that is not given"},
            },
            "additionalProperties": False,
        },
        "config": {
            "type": "object",
            "description": "Two-way map to a Hugging Face config.json",
            "properties": {
                "model_type": {"type": "string"},
                "architectures": strings,
                "params": {
                    "type": "object",
                    "description": "param -> key, [keys], or {key, values}",
                    "additionalProperties": {
                        "type": ["string", "array", "object"],
                        "items": {"type": "string"},
                        "properties": {
                            "key": {"type": ["string", "array"], "items": {"type": "string"}},
                            "values": {"type": "object", "description": "Their spelling -> ours"},
                            "count": {"type": "boolean", "description": "The key holds a list; ours is its length"},
                            "nullable": {"type": "boolean", "description": "A null of theirs is a value, not a gap"},
                            "when": {"type": ["boolean", "string"]},
                        },
                        "required": ["key"],
                        "additionalProperties": False,
                    },
                },
                "fixed": {"type": "object", "description": "Keys that this architecture only supports at one value"},
                "ignore": strings,
            },
            "required": ["model_type", "architectures"],
            "patternProperties": _NOTES,
            "additionalProperties": False,
        },
        "weights": {
            "type": "object",
            "description": "What node paths do not already say about checkpoint names",
            "properties": {
                "prefix": {"type": "string", "description": "Leading part of names that a checkpoint may lack"},
                "rules": {"type": "array", "items": {"$ref": "#/$defs/weight_rule"}},
                "tie": {"type": "array", "items": {"$ref": "#/$defs/tie"}},
                "ignore": strings,
                "quantize": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "match": {"type": "string"},
                            "to": {"enum": ["int8", "int4", "ternary", "none"]},
                        },
                        "required": ["match", "to"],
                        "additionalProperties": False,
                    },
                },
            },
            "patternProperties": _NOTES,
            "additionalProperties": False,
        },
        "weight_rule": {
            "type": "object",
            "description": "How one tensor of the model is made of the checkpoint's",
            "properties": {
                "path": {"type": "string", "description": "Parameter path; {layer}, {expert}, {use} match a number"},
                "from": {"type": ["string", "array"], "items": {"type": "string"}},
                "how": {"enum": ["rename", "concat", "split", "stack", "transpose", "permute", "fold", "scale"]},
                "axis": {"type": "integer"},
                "part": {"type": ["integer", "string"], "description": "split: which part"},
                "sizes": {"type": "array", "items": {"type": ["integer", "string"]}},
                "order": {"type": "array", "items": {"type": "integer"}},
                "value": {"type": ["number", "string"], "description": "fold, scale: the constant"},
                "when": {"type": ["boolean", "string"]},
            },
            "required": ["path", "from"],
            "additionalProperties": False,
        },
        "tie": {
            "type": "object",
            "description": "One tensor under two paths",
            "properties": {
                "path": {"type": "string"},
                "to": {"type": "string"},
                "when": {"type": ["boolean", "string"]},
            },
            "required": ["path", "to"],
            "additionalProperties": False,
        },
        "tokenizer": {
            "type": "object",
            "properties": {
                "add_bos": {"type": ["boolean", "null"], "description": "Put BOS first; null: as tokenizer.json says"},
                "chat_template": {"type": "string"},
            },
            "patternProperties": _NOTES,
            "additionalProperties": False,
        },
        "generation": {
            "type": "object",
            "description": "Defaults of `generate`",
            "properties": {
                "max_new_tokens": {"type": "integer", "minimum": 1},
                "temperature": {**number, "minimum": 0},
                "top_k": {"type": ["integer", "null"], "minimum": 0},
                "top_p": {**number, "minimum": 0},
                "min_p": {**number, "minimum": 0},
                "repetition_penalty": number,
                "stop": strings,
                "eos_token_id": {"type": ["integer", "array", "null"], "items": {"type": "integer"}},
                "bos_token_id": {"type": ["integer", "null"]},
                "pad_token_id": {"type": ["integer", "null"]},
                "decoder_start_token_id": {"type": ["integer", "null"], "description": "First token of a decoder"},
                "unmasking": {"$ref": "#/$defs/unmasking"},
            },
            "patternProperties": _NOTES,
            "additionalProperties": False,
        },
        "unmasking": {
            "type": "object",
            "description": "Masked diffusion: new tokens begin as masks, and each pass keeps those that are surest",
            "properties": {
                "mask_token_id": {"type": ["integer", "string"], "minimum": 0, "description": "The mask"},
                "steps": {"type": ["integer", "null"], "minimum": 1, "description": "Passes; absent: one a token"},
                "block_size": {"type": ["integer", "null"], "minimum": 1, "description": "Tokens unmasked together"},
            },
            "required": ["mask_token_id"],
            "additionalProperties": False,
        },
    }


def spec_schema() -> Schema:
    """The whole language as one schema, committed as `specs/schema.json`."""
    schema = structure_schema()
    definitions = {op.name: node_schema(op) for op in OPS if not op.is_internal}
    definitions |= {"block_node": BLOCK_NODE_SCHEMA, "node": _ANY_NODE, **_sections()}
    schema["$defs"] = definitions
    text = json.dumps(schema).replace(
        '"additionalProperties": {"type": "object"}', '"additionalProperties": {"$ref": "#/$defs/node"}'
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "llmc spec, version 1",
        **json.loads(text),
    }


def schema_text() -> str:
    """`spec_schema` as committed: indented, with a final newline."""
    return json.dumps(spec_schema(), indent=1, ensure_ascii=False) + "\n"
