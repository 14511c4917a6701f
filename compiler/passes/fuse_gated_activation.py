"""Makes one op of a gate's activation and product; with the projection before it where nothing else reads that.

rewrite: mul(activation(gate), up)                            ->  gated_activation(gate, up)
rewrite: gate, up = split(x); gated_activation(gate, up)      ->  gated_activation_packed(x)
rewrite: x = linear(y), read by that only; ..._packed(x)      ->  gated_linear(y)
"""

from __future__ import annotations

import operator
from typing import cast

from torch import fx

from ..lowered import Lowered, Module, is_op, site_of, type_of
from ..ops.gated_activation import GATED_ACTIVATION
from ..ops.gated_activation_packed import GATED_ACTIVATION_PACKED
from ..ops.gated_linear import GATED_LINEAR
from ..rewrite import insert_before, operand, parameters_of


def fuse_gated_activation(module: Module) -> int:
    """Returns the number of gates fused."""
    count = 0
    for lowered in module.definitions.values():
        for node, _ in lowered.sites():
            if is_op(node, "mul"):
                count += _fuse(lowered, node)
    return count


def _fuse(lowered: Lowered, product: fx.Node) -> int:
    a, b = operand(product, "a"), operand(product, "b")
    for activation, up in ((a, b), (b, a)):
        if is_op(activation, "activation") and len(activation.users) == 1 and type_of(activation) == type_of(up):
            break
    else:
        return 0
    gate = operand(activation, "x")
    path, kind = site_of(product).path, site_of(activation).fields["kind"]
    packed = _packed_source(gate, up)
    if packed is None:
        fused = insert_before(
            product, op=GATED_ACTIVATION, path=path, fields={"kind": kind}, inputs={"gate": gate, "up": up}
        )
    elif _is_read_once(packed, gate, up):
        features = type_of(up).features
        fused = insert_before(
            product,
            op=GATED_LINEAR,
            path=path,
            fields={"features": features, "kind": kind},
            inputs={"x": operand(packed, "x")},
            parameters=parameters_of(packed),
        )
    else:
        fused = insert_before(
            product, op=GATED_ACTIVATION_PACKED, path=path, fields={"kind": kind}, inputs={"x": packed}
        )
    product.replace_all_uses_with(fused["out"])
    lowered.graph.erase_node(product)
    lowered.graph.erase_node(activation)
    return 1


def _is_read_once(packed: fx.Node, gate: fx.Node, up: fx.Node) -> bool:
    """Whether a projection serves this gate and nothing else."""
    return is_op(packed, "linear") and len(packed.users) == len(gate.users) == len(up.users) == 1


def _packed_source(gate: fx.Node, up: fx.Node) -> fx.Node | None:
    """The tensor whose first half is `gate` and second half `up`, if there is one."""
    if gate.target is not operator.getitem or up.target is not operator.getitem or gate.args[0] is not up.args[0]:
        return None
    split = cast("fx.Node", gate.args[0])
    if not is_op(split, "split") or (gate.args[1], up.args[1]) != (0, 1):
        return None
    return operand(split, "x") if len(site_of(split).types) == 2 and type_of(gate) == type_of(up) else None
