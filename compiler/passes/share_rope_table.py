"""Computes cosines and sines once a call for all layers, instead of in each rope.

rewrite: rope(x, position)  ->  rope_apply(x, table), with table = rope_table(position) in the model's first definition
"""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from ..axes import AMBIENT
from ..lowered import Lowered, Module, identifier, is_op, site_of, type_of
from ..ops.declaration import Value
from ..ops.rope_apply import ROPE_APPLY
from ..ops.rope_table import ROPE_TABLE
from ..rewrite import add_ambient, add_input, add_output, first_op, insert_before, operand

Key = tuple[tuple[str, object], ...]


def share_rope_table(module: Module) -> int:
    """Returns the number of rope nodes that now read a table."""
    entry = module.definitions[module.calls[0].definition]
    can_share = not entry.is_repeated and len(module.calls_of(entry.name)) == 1
    tables: dict[Key, str] = {}
    count = 0
    for lowered in list(module.definitions.values()):
        ropes = [node for node, _ in lowered.sites() if is_op(node, "rope")]
        local: dict[Key, fx.Node] = {}
        for node in ropes:
            fields = _table_fields(node)
            key: Key = tuple((name, str(value)) for name, value in fields.items())
            if key not in local:
                if can_share and lowered is not entry:
                    local[key] = _read_shared(module, entry, lowered, tables, key, fields, node)
                else:
                    local[key] = _insert_table(node, fields, operand(node, "position"))
            _apply(lowered, node, local[key])
            count += 1
    return count


def _table_fields(rope: fx.Node) -> dict[str, Value]:
    fields = dict(site_of(rope).fields.values)
    rotary_dim = fields.get("rotary_dim") or fields["head_dim"]
    return {**{name: fields[name] for name in ROPE_TABLE.field_index if name in fields}, "rotary_dim": rotary_dim}


def _insert_table(anchor: fx.Node, fields: dict[str, Value], position: fx.Node, like: fx.Node | None = None) -> fx.Node:
    path = f"{site_of(like or anchor).path}.table"
    return insert_before(anchor, op=ROPE_TABLE, path=path, fields=fields, inputs={"position": position}, like=like)[
        "out"
    ]


def _read_shared(
    module: Module,
    entry: Lowered,
    lowered: Lowered,
    tables: dict[Key, str],
    key: Key,
    fields: dict[str, Value],
    rope: fx.Node,
) -> fx.Node:
    """An input of this definition that every call binds to the entry's table."""
    if key not in tables:
        tables[key] = "rope_table" if not tables else f"rope_table_{len(tables)}"
        position = add_ambient(entry, "position", AMBIENT["position"])
        table = _insert_table(first_op(entry), fields, position, like=rope)
        add_output(entry, tables[key], table)
        module.calls[0] = replace(
            module.calls[0], outputs={**module.calls[0].outputs, tables[key]: f"{tables[key]}:out"}
        )
    port = identifier(tables[key])
    shape = ROPE_TABLE.infer(site_of(rope).fields.__class__(fields), {"position": AMBIENT["position"]})["out"]
    node = add_input(lowered, port, shape)
    module.calls = [
        replace(call, inputs={**call.inputs, port: f"{tables[key]}:out"}) if call.definition == lowered.name else call
        for call in module.calls
    ]
    return node


def _apply(lowered: Lowered, rope: fx.Node, table: fx.Node) -> None:
    site = site_of(rope)
    assert type_of(table).dtype == "float32"
    applied = insert_before(
        rope,
        op=ROPE_APPLY,
        path=site.path,
        fields=site.fields.values,
        inputs={"x": operand(rope, "x"), "table": table},
    )
    rope.replace_all_uses_with(applied["out"])
    lowered.graph.erase_node(rope)
