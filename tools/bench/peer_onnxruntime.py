# pyright: basic, reportMissingImports=false
"""onnxruntime-genai as a peer: `python peer_onnxruntime.py FOLDER PROMPT TOKENS THREADS`, 4-bit weights.

Runs in an environment with onnxruntime-genai, onnx, onnx_ir, torch and transformers, and imports nothing of llmc. Its
own builder turns the folder into ONNX first, in FOLDER/onnxruntime. Speaks as `peer_loop.py` says. Greedy, batch 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import onnxruntime_genai

TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
}
"""The builder wants one; it is never used."""


def convert(folder: Path) -> Path:
    """The folder of the ONNX model. Raises SystemExit with what the builder said last."""
    source, target = folder / "for_onnxruntime", folder / "onnxruntime"
    source.mkdir()
    for name in ("config.json", "model.safetensors"):
        (source / name).symlink_to(folder / name)
    (source / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    builder = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", target]
    done = subprocess.run(
        [*builder, "-p", "int4", "-e", "cpu", "-c", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit((done.stderr.strip().splitlines() or ["the builder failed"])[-1])
    return target


def main() -> None:
    """Convert and load, then answer the lines of stdin."""
    folder, prompt, tokens, threads = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    ids = json.loads(sys.stdin.readline())
    target = convert(folder)
    started = time.perf_counter()
    config = onnxruntime_genai.Config(str(target))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = onnxruntime_genai.Model(config)
    load_seconds = time.perf_counter() - started
    shape = json.loads((folder / "config.json").read_text())
    table = 4 * shape["vocab_size"] * shape["hidden_size"]
    ready = {
        "load": load_seconds,
        "bytes": (target / "model.onnx.data").stat().st_size - table,
        "version": f"onnxruntime-genai {onnxruntime_genai.__version__}",
    }
    print(json.dumps(ready), flush=True)
    length = prompt + tokens + 1
    params = onnxruntime_genai.GeneratorParams(model)
    params.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = onnxruntime_genai.Generator(model, params)
    for line in sys.stdin:
        if line.strip() == "prefill":
            generator = onnxruntime_genai.Generator(model, params)
            started = time.perf_counter()
            generator.append_tokens(ids)
            generator.generate_next_token()
        else:
            started = time.perf_counter()
            for _ in range(tokens):
                generator.generate_next_token()
        token = int(generator.get_next_tokens()[0])
        print(json.dumps({"seconds": time.perf_counter() - started, "token": token}), flush=True)


if __name__ == "__main__":
    main()
