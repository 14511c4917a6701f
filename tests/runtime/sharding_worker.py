"""One of two processes that shard a model with FSDP2, train it three steps, and compare it with a whole one.

Run by test_sharding.py as `sharding_worker.py RANK PORT`; prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import llmc

PARAMS = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 61,
}


def train(model: Any, tokens: Tensor) -> list[float]:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    losses: list[float] = []
    for _ in range(3):
        logits = cast("Tensor", model(tokens))
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]
        losses.append(float(loss.detach()))
    return losses


def main(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    tokens = torch.arange(24).reshape(2, 12)
    whole = llmc.load("llama_tiny", params=PARAMS, seed=5)
    sharded = llmc.load("llama_tiny", params=PARAMS, seed=5)
    before = cast("Tensor", sharded(tokens, cache=sharded.new_cache(2, 16))).clone()
    mesh = init_device_mesh("cpu", (2,))
    for block in cast("Any", sharded.get_submodule("model.layers")):
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    whole_losses, losses = train(whole, tokens), train(sharded, tokens)
    fused = cast("Tensor", sharded(tokens, cache=sharded.new_cache(2, 16)))
    with torch.no_grad():
        reference = cast("Tensor", whole(tokens))
    moved, difference = float((fused - before).abs().max()), float((fused - reference).abs().max())
    print(json.dumps({"whole": whole_losses, "sharded": losses, "moved": moved, "difference": difference}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
