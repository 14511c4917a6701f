"""One of two processes that run half of a layer each: column- and row-parallel matrices, heads split between them.

Run by test_sharded_block.py as `sharded_block_worker.py RANK PORT`; prints one line of JSON. Half a layer is the same
definition with half of the heads; what sharding adds is a sum over the processes after each row-parallel matrix.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, fx

from llmc.compiler.lowered import Lowered
from llmc.compiler.parameters import Concat, Formula
from llmc.compiler.pipeline import build
from llmc.compiler.program import Program
from llmc.kernels.states import STATES

WHOLE = {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "intermediate_size": 48}
HALF = {**WHOLE, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 24}
COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
ROWS = ("o_proj", "down_proj")
BATCH, CALLS = 2, (5, 1, 1)


def summed(x: Tensor) -> Tensor:
    """x of all processes together."""
    total = x.clone()
    dist.all_reduce(total)  # pyright: ignore[reportUnknownMemberType]
    return total


def add_sums(module: fx.GraphModule) -> int:
    """Sum the result of every row-parallel matrix; returns how many there are."""
    found = [node for node in module.graph.nodes if "site" in node.meta and node.meta["site"].path.endswith(ROWS)]
    for node in found:
        with module.graph.inserting_after(node):
            total = module.graph.call_function(summed, (node,))
        node.replace_all_uses_with(total)
        total.args = (node,)
    module.recompile()
    return len(found)


def shard(name: str, weight: Tensor, rank: int) -> Tensor:
    """This process's part of a matrix."""
    if name.endswith(COLUMNS):
        return weight.chunk(2, dim=0)[rank]
    return weight.chunk(2, dim=1)[rank] if name.endswith(ROWS) else weight


def operand(formula: Formula, tensors: Mapping[str, Tensor]) -> Tensor:
    parts = formula.parts if isinstance(formula, Concat) else (formula,)
    return torch.cat([tensors[part.node] for part in parts])


def run(program: Program, forward: Callable[..., tuple[object, ...]], tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """The layer's outputs of a prefill and two decoded tokens."""
    lowered: Lowered = program.module.definitions["layer"]
    parameters = [operand(formula, tensors) for formula in lowered.parameters.values()]
    ((_, spec),) = lowered.states.values()
    state: object = STATES[spec.kind].allocate(spec.sizes, BATCH, 16, torch.float32, torch.device("cpu"))
    make, held, found = torch.Generator().manual_seed(1), 0, list[Tensor]()
    for tokens in CALLS:
        x, residual = torch.randn(2, BATCH, tokens, 32, generator=make)
        table = torch.randn(BATCH, tokens, 8, generator=make)
        position = torch.arange(held, held + tokens).expand(BATCH, tokens)
        out, total, state = forward(x, residual, table, position, torch.full((BATCH,), held), *parameters, state)
        found += [cast("Tensor", out), cast("Tensor", total)]
        held += tokens
    return found


def main(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    whole, half = (build("llama_tiny", params) for params in (WHOLE, HALF))
    make = torch.Generator().manual_seed(0)
    tensors = {
        part.node: torch.randn(part.shape, generator=make) / 4
        for formula in whole.module.definitions["layer"].parameters.values()
        for part in (formula.parts if isinstance(formula, Concat) else (formula,))
    }
    mine = {name: shard(name, tensor, rank) for name, tensor in tensors.items()}
    module = half.selections["prefill"]["layer"].module
    sums = add_sums(module)
    expected = run(whole, whole.selections["prefill"]["layer"].module.forward, tensors)
    actual = run(half, module.forward, mine)
    difference = max(float((a - b).abs().max()) for a, b in zip(actual, expected, strict=True))
    size = sum(tensor.numel() for tensor in mine.values()) / sum(tensor.numel() for tensor in tensors.values())
    print(json.dumps({"sums": sums, "difference": difference, "share": size}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
