"""llmc as a peer: `python -P -m llmc.tools.bench.peer_llmc FOLDER QUANTIZE TOKENS`; QUANTIZE may be `none`."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version

import torch

from ...runtime.load import load
from .llmc_engine import LlmcEngine, floor
from .peer_loop import read_prompt, serve


def main() -> None:
    """Load, then answer the lines of stdin."""
    folder, quantize, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
    ids = torch.tensor([read_prompt()])
    started = time.perf_counter()
    model = load(folder, dtype="bfloat16", quantize=None if quantize == "none" else quantize)
    engine = LlmcEngine(model, ids, tokens)
    engine.prefill()
    load_seconds = time.perf_counter() - started
    least = floor(model, batch=1, prompt=ids.shape[1], tokens=tokens)
    serve(engine, load_seconds, round(least.decode_bytes), f"llmc {version('llmc')}")


if __name__ == "__main__":
    main()
