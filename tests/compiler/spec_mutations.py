"""Random specs for the fuzz tests: packaged ones with a few things wrong, and graphs drawn from the table of ops."""

from __future__ import annotations

import copy
import random
from functools import cache
from typing import TypeAlias, cast

import yaml

from llmc.compiler.ops import OPS
from llmc.compiler.ops.declaration import Field, Op
from llmc.specs.packaged import packaged_names, packaged_path
from llmc.specs.source import plain
from llmc.specs.yaml_reader import read_yaml_file

Tree: TypeAlias = "dict[str, Tree] | list[Tree] | str | int | float | bool | None"

SCALARS: tuple[Tree, ...] = (
    None, True, False,
    0, 1, -1, 2, 7, 10**17, -(10**17), 0.5, -0.0, 1e300, float("nan"), float("inf"), "", "x", "tokens",
    "position", "hidden_size",
    "layer", "use", "num_layers", "${layer}", "${", "${}", "$${x}", "${hidden_size // num_heads}",
    "${1 // 0}",
    "hidden_size / 3", "1 +", "a:b", ":", "embed:out", "${'x'}", "[1, 2][layer]", "range(10000)", "'a' * 3",
    "model.layers", "q_proj",
    "model.layers.0.self_attn.attend", "__class__", 'q", print("x") or "q', "変数", "a" * 70, "*",
    "{layer}", "silu", "linear", "attention", "mlp", "llama", "true", "not x", "min()", "exp(1000)", "${[1, [2]]}",
)  # fmt: skip
KEYS = (
    "op", "block",
    "in", "out", "nodes", "when", "else", "repeat", "share", "own", "with", "overrides", "cache", "params",
    "features", "head_dim",
    "q", "k", "v", "x", "kind", "sizes", "shape", "rate", "extends", "x-note", "llmc", "at", "set",
)  # fmt: skip
PUBLIC = tuple(op for op in OPS if not op.is_internal)


@cache
def packaged() -> dict[str, Tree]:
    return {name: cast("Tree", plain(read_yaml_file(packaged_path(name), name))) for name in packaged_names()}


def mutated(rng: random.Random) -> str:
    """A packaged spec with one to three things changed, most often in its graph, as YAML."""
    tree = copy.deepcopy(rng.choice([*packaged().values()]))
    for _ in range(rng.choice((1, 1, 2, 3))):
        parts = [tree[key] for key in ("blocks", "graph", "params") if isinstance(tree, dict) and key in tree]
        _mutate(rng.choice(parts) if parts and rng.random() < 0.8 else tree, rng)
    return _text(tree)


def _text(tree: Tree) -> str:
    dumper = yaml.SafeDumper
    dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign, assignment]
    return yaml.dump(tree, Dumper=dumper, sort_keys=False, allow_unicode=True, width=10**6)


def _holders(tree: Tree) -> list[dict[str, Tree] | list[Tree]]:
    found: list[dict[str, Tree] | list[Tree]] = []
    stack: list[Tree] = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, (dict, list)) and item:
            found.append(item)
            stack += item.values() if isinstance(item, dict) else item
    return found


def _mutate(tree: Tree, rng: random.Random) -> None:
    holders = _holders(tree)
    if not holders:
        return
    holder = rng.choice(holders)
    if isinstance(holder, list):
        at = rng.randrange(len(holder))
        match rng.randrange(3):
            case 0:
                del holder[at]
            case 1:
                holder[at] = _any(rng, holders)
            case _:
                holder.append(copy.deepcopy(holder[at]))
        return
    key = rng.choice([*holder])
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1:
            holder[rng.choice(KEYS)] = copy.deepcopy(holder[key])
        case 2:
            holder[rng.choice((key + "s", key[:-1], *KEYS, str(rng.choice(SCALARS))))] = holder.pop(key)
        case 3:
            other = rng.choice([*holder])
            holder[key], holder[other] = holder[other], holder[key]
        case 4:
            holder[rng.choice(KEYS)] = _any(rng, holders)
        case _:
            holder[key] = _any(rng, holders)


def _any(rng: random.Random, holders: list[dict[str, Tree] | list[Tree]]) -> Tree:
    return copy.deepcopy(rng.choice(holders)) if rng.random() < 0.15 else rng.choice(SCALARS)


def generated(rng: random.Random) -> str:
    """A graph of random ops with mostly legal fields, in a block that is repeated, as YAML."""
    blocks: dict[str, Tree] = {}
    for block in ("one", "two")[: rng.choice((1, 1, 2))]:
        nodes: dict[str, Tree] = {}
        names = ["x", *(["y"] if rng.random() < 0.3 else [])]
        inputs: list[Tree] = [*names]
        for index in range(rng.choice((1, 1, 2, 3, 5))):
            nodes[f"n{index}"] = _node(rng, names, [*blocks], must_use=index == 0)
            names += _outputs(f"n{index}", nodes[f"n{index}"])
        read = {name for node in nodes.values() for name in _names(node)}
        out: dict[str, Tree] = {
            f"o{i}": name for i, name in enumerate(names[:-1]) if name.partition(":")[0] not in read
        }
        blocks[block] = {"in": inputs, "nodes": nodes, "out": {"x": names[-1], **out}}
    last = [*blocks][-1]
    first = blocks[last]
    assert isinstance(first, dict)
    wired: Tree = ["embed" for _ in cast("list[Tree]", first["in"])]
    use: dict[str, Tree] = {"block": last, "in": wired, "repeat": rng.choice(("n", "n", "n - 1", "n - 2"))}
    if rng.random() < 0.3:
        use["overrides"] = [
            {"at": "layer == 1", "set": {f"n0.{rng.choice(('eps', 'features', 'window'))}": rng.choice(SCALARS)}}
        ]
    if rng.random() < 0.2:
        use["share"] = "shared"
    graph: Tree = {
        "in": "tokens",
        "nodes": {"embed": {"op": "embedding", "in": "tokens", "rows": 16, "features": "w"}, "layers": use},
        "out": rng.choice(("layers:x", "layers:x", "layers:x", "layers", "embed")),
    }
    return _text(
        {"llmc": 1, "name": "f", "params": {"w": rng.choice((8, 12, 32)), "n": 2}, "blocks": blocks, "graph": graph}
    )


def _names(tree: Tree) -> list[str]:
    """Every text in a tree, without its port."""
    if isinstance(tree, (dict, list)):
        return [name for item in (tree.values() if isinstance(tree, dict) else tree) for name in _names(item)]
    return [tree.partition(":")[0]] if isinstance(tree, str) else []


def _outputs(name: str, node: Tree) -> list[str]:
    """What can be read of a node."""
    assert isinstance(node, dict)
    op = next((op for op in PUBLIC if op.name == node.get("op")), None)
    if op is None:
        return [f"{name}:x"]
    parts = node.get(op.outputs_field) if op.outputs_field else None
    ports = [*parts] if isinstance(parts, dict) else op.outputs
    return [name] if "out" in ports else [f"{name}:{port}" for port in ports]


def _node(rng: random.Random, names: list[str], blocks: list[str], *, must_use: bool) -> Tree:
    if blocks and (must_use or rng.random() < 0.15):
        return {"block": rng.choice(blocks), "in": rng.choice(names), **({"repeat": 2} if rng.random() < 0.3 else {})}
    op = rng.choice(PUBLIC)
    node: dict[str, Tree] = {"op": op.name}
    for port in op.ports:
        if not port.is_optional or rng.random() < 0.2:
            node[port.name] = [rng.choice(names), names[0]] if port.is_variadic else _reference(rng, names, op)
    for field in op.fields:
        if field.is_required or rng.random() < 0.3:
            node[field.name] = _value(rng, field)
    if rng.random() < 0.1:
        node |= {"when": rng.choice((True, "layer == 0", "n > 3")), "else": rng.choice(names)}
    return node


def _reference(rng: random.Random, names: list[str], op: Op) -> str:
    name = rng.choice(names)
    return f"{name}:{rng.choice((*op.outputs, 'a'))}" if rng.random() < 0.1 else name


def _value(rng: random.Random, field: Field) -> Tree:
    if rng.random() < 0.05:
        return rng.choice(SCALARS)
    match field.kind:
        case "int":
            return rng.choice((1, 2, 4, 8, 12, "w", "w // 2", "2 * w", "n"))
        case "float":
            return rng.choice((0.0, 1e-5, 0.5, 1.0, 4.0, "1 / w", "layer"))
        case "bool":
            return rng.choice((True, False, "n == 2"))
        case "str":
            return rng.choice(field.choices or ("a", "layers.0.n0"))
        case "int_list" | "float_list":
            return [rng.choice((1, 2, 4, "w")) for _ in range(rng.randint(0, 3))]
        case _:
            return {
                rng.choice(("a", "b", "c d")): rng.choice((4, 8, "w", "w // 2", 0)) for _ in range(rng.randint(0, 3))
            }
