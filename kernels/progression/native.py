"""`geometric` in C."""

from __future__ import annotations

from ..native.node import NativeNode


def geometric(node: NativeNode) -> None:
    """`reference.geometric`."""
    y = node.output()
    power = f"{node.number('start')} * pow({node.number('ratio')}, (double)i)"
    node.row(f"for (int64_t i = 0; i < {y.width}; i++) {y.pointer}[i] = (float)({power});", rows="one")
