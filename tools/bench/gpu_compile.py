"""How long 32 layers take until their first token (G8), beside torch.compile of the whole model.

The model is narrow, so that compiling is nearly all of it. Ours is loaded twice: the second time every kernel is known.
On an H200 the whole may take a minute, most of it the rival's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch

from ...runtime.load import load
from ...runtime.model import LanguageModel
from .llmc_engine import random_ids

LAYERS = 32
NARROW = {"vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1536, "num_heads": 8, "num_kv_heads": 4}
PROMPT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileLine:
    """Seconds. `cold` and `warm`: from the spec to two tokens, random weights included, kernels new and known."""

    layers: int
    cold: float
    warm: float
    whole: float | str
    """Of the first pass through torch.compile of transformers' model beyond a later one; or why there is none."""


def measure_compile(device: str, dtype: str, *, layers: int = LAYERS, backend: str | None = "inductor") -> CompileLine:
    """backend: torch.compile's for the rival, None for no rival."""
    (cold, _), (warm, model) = (_first_token(device, dtype, layers) for _ in range(2))
    return CompileLine(
        layers=layers, cold=cold, warm=warm, whole="not asked for" if backend is None else _whole(model, backend)
    )


def _first_token(device: str, dtype: str, layers: int) -> tuple[float, LanguageModel]:
    started = time.perf_counter()
    model = load("llama", params={**NARROW, "num_layers": layers}, device=device, dtype=dtype)
    prompt = cast("list[int]", random_ids(model, 1, PROMPT)[0].tolist())  # pyright: ignore[reportUnknownMemberType]
    model.generate(prompt, max_new_tokens=2, ignore_eos=True)
    return time.perf_counter() - started, model


def _whole(model: LanguageModel, backend: str) -> float | str:
    """Nothing that an earlier compilation left behind is used."""
    import torch._dynamo
    from torch._inductor import config

    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        return "transformers is not installed"
    make = cast("Callable[..., torch.nn.Module]", AutoModelForCausalLM.from_pretrained)  # pyright: ignore[reportUnknownMemberType]
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        peer = make(folder, dtype=model.dtype).to(model.device).eval()
    ids = random_ids(model, 1, PROMPT).to(model.device)
    torch._dynamo.reset()
    compiled = cast("Callable[..., object]", torch.compile(peer, backend=backend, dynamic=False))  # pyright: ignore[reportUnknownMemberType]
    times: list[float] = []
    with torch.no_grad(), config.patch(force_disable_caches=True):  # pyright: ignore[reportUnknownMemberType]
        for _ in range(2):
            started = time.perf_counter()
            compiled(input_ids=ids, use_cache=False)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    return times[0] - times[1]
