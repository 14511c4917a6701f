# pyright: basic, reportMissingImports=false
"""llama.cpp as a peer: `python peer_llama_cpp.py FILE PROMPT TOKENS THREADS`, in the environment of llama-cpp-python.

Imports nothing of llmc. Speaks as `peer_loop.py` says. Greedy, batch 1, the C API without the sampler of the package.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time

import gguf
import llama_cpp
import numpy as np


@llama_cpp.llama_log_callback
def silent(_level, _text, _data) -> None:
    """llama.cpp's messages go nowhere."""


def bytes_of_token(file: gguf.GGUFReader) -> int:
    """What a token reads: of tables one row, which is nothing here; of experts those that it is sent to."""
    tensors = {tensor.name: tensor.n_bytes for tensor in file.tensors}
    if "output.weight" in tensors:
        del tensors["token_embd.weight"]
    tensors.pop("position_embd.weight", None)
    counts = [file.get_field(f"llama.expert_{which}count") for which in ("used_", "")]
    share = counts[0].contents() / counts[1].contents() if all(counts) else 1.0
    return round(sum(size * (share if "_exps" in name else 1.0) for name, size in tensors.items()))


def main() -> None:
    """Load, then answer the lines of stdin."""
    path, prompt, tokens, threads = sys.argv[1], *map(int, sys.argv[2:5])
    ids = json.loads(sys.stdin.readline())
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    started = time.perf_counter()
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = prompt + tokens, max(prompt, 32), max(prompt, 32)
    params.n_threads = params.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, params)
    if not model or not context:
        sys.exit(f"llama.cpp does not load {path}")
    load_seconds = time.perf_counter() - started
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def step(new: list[int]) -> int:
        array = (llama_cpp.llama_token * len(new))(*new)
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(new))) != 0:
            sys.exit("llama.cpp could not decode")
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        return int(np.ctypeslib.as_array(logits, shape=(vocab,)).argmax())

    ready = {
        "load": load_seconds,
        "bytes": bytes_of_token(gguf.GGUFReader(path)),
        "version": f"llama-cpp-python {llama_cpp.__version__}",
    }
    print(json.dumps(ready), flush=True)
    token = 0
    for line in sys.stdin:
        if line.strip() == "prefill":
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            started = time.perf_counter()
            token = step(ids)
        else:
            started = time.perf_counter()
            for _ in range(tokens):
                token = step([token])
        print(json.dumps({"seconds": time.perf_counter() - started, "token": token}), flush=True)


if __name__ == "__main__":
    main()
