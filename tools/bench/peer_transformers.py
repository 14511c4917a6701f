"""transformers as a peer: `python -P -m llmc.tools.bench.peer_transformers FOLDER eager|compiled TOKENS THREADS`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import torch

from .peer_loop import read_prompt, serve
from .transformers_engine import TransformersEngine


def main() -> None:
    """Load, then answer the lines of stdin."""
    folder, mode, tokens, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    ids = torch.tensor([read_prompt()])
    torch.set_num_threads(threads)
    engine = TransformersEngine(folder, ids, tokens, torch.bfloat16, compiles=mode == "compiled")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) - engine.table_bytes
    serve(engine, engine.load_seconds, size, f"transformers {version('transformers')}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
