"""Removes nodes that nothing reads, and ambient tensors that a definition no longer needs.

rewrite: y = op(x), y unread  ->  (nothing)
"""

from __future__ import annotations

from ..lowered import Module


def eliminate_dead(module: Module) -> int:
    """Returns the number of nodes removed."""
    count = 0
    for lowered in module.definitions.values():
        before = len(lowered.graph.nodes)
        lowered.graph.eliminate_dead_code()
        for name, node in lowered.placeholders.items():
            if name in lowered.ambient and not node.users:
                lowered.graph.erase_node(node)
                lowered.ambient.remove(name)
        count += before - len(lowered.graph.nodes)
    return count
