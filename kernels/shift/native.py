"""`token_shift` in C."""

from __future__ import annotations

from ..native.node import NativeNode


def token_shift(node: NativeNode) -> None:
    """`reference.token_shift`."""
    x, y = node.input("x"), node.output("out")
    last = node.state().pointers[0] if node.has("state") else "0"
    node.region(
        f"llmc_token_shift(t, &(llmc_shift){{.x = {x.pointer}, .x_stride = {x.stride}, .out = {y.pointer},\n"
        f"  .batch = pass->batch, .tokens = pass->tokens, .features = {y.width}, .position = pass->position,\n"
        f"  .last = {last}, .type = LLMC_MODEL_TYPE}});"
    )
