"""`scan` in C."""

from __future__ import annotations

from ..native.node import NativeNode, fields_of
from .fields import Scan

STREAMS = ("v", "k", "q", "decay", "dt", "beta", "erase", "write")


def scan(node: NativeNode) -> None:
    """`reference.scan`."""
    y, given = node.output("out"), fields_of(node, Scan)
    key_dim, value_dim = given.key_dim, given.value_dim
    values: dict[str, object] = {
        "batch": "pass->batch",
        "tokens": "pass->tokens",
        "position": "pass->position",
        "heads": y.width // value_dim,
        "key_heads": node.input("k").width // key_dim,
        "key_dim": key_dim,
        "value_dim": value_dim,
        "decay_per": f"LLMC_DECAY_{given.decay_per.upper()}",
        "is_A_log": int(given.decay_form == "A_log"),
        "update": f"LLMC_UPDATE_{given.update.upper()}",
        "scale": f"(float)({node.number('scale')})",
        "out": y.pointer,
    }
    for name in STREAMS:
        if node.has(name):
            x = node.input(name)
            values[name] = f"{{{x.pointer}, {0 if x.rows == 'one' else x.stride}}}"
    if node.has("skip"):
        values["skip"] = node.input("skip").pointer
    if node.has("state"):
        values["state"] = node.state().pointers[0]
    fields = ",\n  ".join(f".{name} = {value}" for name, value in values.items())
    node.region(f"llmc_run_scan(t, &(llmc_scan){{{fields}}});")
