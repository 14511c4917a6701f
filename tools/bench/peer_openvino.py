# pyright: basic, reportMissingImports=false
"""OpenVINO as a peer: `python peer_openvino.py FOLDER int4|int8 TOKENS THREADS`.

Runs in an environment with openvino, optimum-intel, nncf, torch and transformers, and imports nothing of llmc.
optimum-intel turns the folder into a stateful OpenVINO model and packs every matrix, symmetric, int4 in groups of 32
as Q4_0 has them and int8 by rows; then OpenVINO alone runs it. Speaks as `peer_loop.py` says. Greedy, batch 1.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import openvino
from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig


def convert(folder: Path, word: str) -> Path:
    """The folder of the OpenVINO model; every matrix has the width, the table of embeddings and the head too."""
    target = folder / f"openvino_{word}"
    width = {"bits": 4, "group_size": 32, "ratio": 1.0} if word == "int4" else {"bits": 8}
    packing = OVWeightQuantizationConfig(sym=True, all_layers=word == "int4" or None, **width)
    OVModelForCausalLM.from_pretrained(folder, export=True, compile=False, quantization_config=packing).save_pretrained(
        target
    )
    return target


class Peer:
    """A compiled model and the request that holds its cache."""

    def __init__(self, target: Path, threads: int) -> None:
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        compiled = openvino.Core().compile_model(target / "openvino_model.xml", "CPU", settings)
        self._request = compiled.create_infer_request()
        self._names = {name for port in compiled.inputs for name in port.get_names()}
        self._length = 0

    def restart(self) -> None:
        """Forget every token."""
        self._request.reset_state()
        self._length = 0

    def step(self, tokens: list[int]) -> int:
        """The token after these."""
        first, self._length = self._length, self._length + len(tokens)
        values = {
            "input_ids": np.array([tokens], dtype=np.int64),
            "attention_mask": np.ones((1, self._length), dtype=np.int64),
            "position_ids": np.arange(first, self._length, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        self._request.infer({name: value for name, value in values.items() if name in self._names})
        return int(self._request.get_tensor("logits").data[0, -1].argmax())


def main() -> None:
    """Convert and load, then answer the lines of stdin."""
    folder, word, tokens, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    ids = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the packer prints tables
    target = convert(folder, word)
    started = time.perf_counter()
    peer = Peer(target, threads)
    load_seconds = time.perf_counter() - started
    shape = json.loads((folder / "config.json").read_text())
    table = shape["vocab_size"] * shape["hidden_size"] * (0.5 + 2 / 32 if word == "int4" else 1)
    ready = {
        "load": load_seconds,
        "bytes": (target / "openvino_model.bin").stat().st_size - int(table),
        "version": f"openvino {openvino.__version__.split('-')[0]}",
    }
    print(json.dumps(ready), file=answers)
    token = 0
    for line in sys.stdin:
        if line.strip() == "prefill":
            peer.restart()
            started = time.perf_counter()
            token = peer.step(ids)
        else:
            started = time.perf_counter()
            for _ in range(tokens):
                token = peer.step([token])
        print(json.dumps({"seconds": time.perf_counter() - started, "token": token}), file=answers)


if __name__ == "__main__":
    main()
