"""Removes dropout, which is the identity in inference.

rewrite: y = dropout(x)  ->  x
"""

from __future__ import annotations

from ..lowered import Module, is_op
from ..rewrite import operand


def drop_dropout(module: Module) -> int:
    """Returns the number of nodes removed."""
    count = 0
    for lowered in module.definitions.values():
        for node, _ in lowered.sites():
            if is_op(node, "dropout"):
                node.replace_all_uses_with(operand(node, "x"))
                lowered.graph.erase_node(node)
                count += 1
    return count
