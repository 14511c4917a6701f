"""Whole models on a GPU: decoded tokens a second beside the bandwidth limit and transformers (G1, G7, G9)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch

from ...kernels.sampling.triton_sample import sample
from ...runtime.gpu.executor import GpuExecutor
from ...runtime.load import load
from ...runtime.model import LanguageModel
from .gpu_cases.sampling import settings
from .gpu_measure import Clock, Limits
from .llmc_engine import random_ids

STEPS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model with random weights."""

    name: str
    spec: str
    params: Mapping[str, int]


SHAPES = (
    Shape(name="Llama 1B", spec="llama3_2_1b", params={}),
    Shape(name="Llama 8B", spec="llama3_1_8b", params={}),
    Shape(name="Mamba 1.4B", spec="mamba", params={"hidden_size": 2048, "num_layers": 48, "vocab_size": 50280}),
    Shape(
        name="small mixture", spec="mixtral",
        params={"hidden_size": 1024, "num_layers": 16, "num_heads": 16, "num_kv_heads": 8, "intermediate_size": 3584},
    ),
    Shape(name="ternary 2B", spec="trident_3b", params={"num_layers": 20}),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """What was measured of a model. `share` is of the bandwidth limit; times in seconds."""

    name: str
    parameters: int
    token: float
    share: float
    host: float
    """Of the host, for one token: from the replay's call to its return."""
    kernels: float | None
    """Launches a layer and token."""
    load: float
    first: float
    """The first decoded token, with all kernels compiled or found in the cache, and the graph recorded."""
    sampling: float
    """The share of a token that drawing from the largest probabilities takes, by itself."""
    beams: float
    """A step of four beams over one of four rows that take the likeliest tokens (G7: at most 1.15)."""
    transformers: float | str
    """Its seconds a token, with a static cache and torch.compile; or why there is none."""


def measure_models(
    limits: Limits, clock: Clock, device: str, dtype: str, shapes: tuple[Shape, ...], is_over: Callable[[], bool]
) -> Iterator[ModelLine | str]:
    """One model after the other; each is let go before the next. None is begun where the time is over."""
    for shape in shapes:
        if is_over():
            yield f"{shape.name}: no time was left"
            continue
        try:
            yield _measure(shape, limits, clock, device, dtype, is_over)
        except Exception as error:  # one broken model must not cost the lease
            yield f"{shape.name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if device == "cuda":
            torch.cuda.empty_cache()


def _measure(
    shape: Shape, limits: Limits, clock: Clock, device: str, dtype: str, is_over: Callable[[], bool]
) -> ModelLine:
    started = time.perf_counter()
    model = load(shape.spec, params=dict(shape.params), device=device, dtype=dtype)
    loaded = time.perf_counter() - started
    prompt = cast("list[int]", random_ids(model, 1, 16)[0].tolist())  # pyright: ignore[reportUnknownMemberType]
    started = time.perf_counter()
    model.generate(prompt, max_new_tokens=2, ignore_eos=True)
    first = time.perf_counter() - started
    token = min(_decode_seconds(model, prompt) for _ in range(3))
    read = sum(p.nbytes for p in model.parameters()) - _unread(model)
    return ModelLine(
        name=shape.name,
        parameters=model.program.plan.parameters,
        token=token,
        share=read / limits.bandwidth / token,
        host=_host_seconds(model),
        kernels=_launches(model) if device == "cuda" else None,
        load=loaded,
        first=first,
        sampling=_sampling_seconds(model, clock) / token,
        beams=_beams_over_greedy(model, prompt),
        transformers=_peer(shape, model, prompt, device, is_over),
    )


def _peer(
    shape: Shape, model: LanguageModel, prompt: list[int], device: str, is_over: Callable[[], bool]
) -> float | str:
    if device != "cuda":
        return "only on a GPU"
    return "no time was left" if is_over() else _transformers(shape, model, prompt)


def _sampling_seconds(model: LanguageModel, clock: Clock) -> float:
    """Of one row, with the settings of the sampling cases."""
    size = model.facts.vocab_size
    assert isinstance(size, int)
    logits = torch.randn(1, size, device=model.device) * 3
    given = settings(1, model.device)
    return clock(lambda: sample(logits=logits, **given))


def _unread(model: LanguageModel) -> int:
    """Bytes of embedding rows that a token does not look at, and of experts that it does not visit."""
    from ..roofline import unread_parameters

    program = model.program
    unread = unread_parameters(program.model, program.weights.ties, 1)
    return unread * next(model.parameters()).itemsize


def _decode_seconds(model: LanguageModel, prompt: list[int]) -> float:
    """Seconds a token, greedy, batch 1: a long generation less a short one."""
    times: list[float] = []
    for steps in (8, 8 + STEPS):
        started = time.perf_counter()
        model.generate(prompt, max_new_tokens=steps, ignore_eos=True)
        times.append(time.perf_counter() - started)
    return (times[1] - times[0]) / STEPS


def _beams_over_greedy(model: LanguageModel, prompt: list[int]) -> float:
    """Alternately, a long generation less a short one of each; the least times count."""
    ways = (partial(model.generate, [prompt] * 4), partial(model.generate, prompt, num_beams=4))
    least = [float("inf")] * 2
    for _ in range(3):
        for way, generate in enumerate(ways):
            times: list[float] = []
            for steps in (8, 8 + STEPS):
                started = time.perf_counter()
                generate(max_new_tokens=steps, ignore_eos=True)
                times.append(time.perf_counter() - started)
            least[way] = min(least[way], times[1] - times[0])
    return least[1] / least[0]


def _host_seconds(model: LanguageModel) -> float:
    """What the host spends to start a token; the device works meanwhile."""
    executor = model.executor()
    if not isinstance(executor, GpuExecutor):
        return float("nan")
    with model.lease_cache(1, 64) as cache, torch.inference_mode():
        executor.decode([1], [0], cache.states, 1, ())
        replay = executor.replay_of(cache.states)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(32):
            replay()
        elapsed = time.perf_counter() - started
        torch.cuda.synchronize()
    return elapsed / 32


def _launches(model: LanguageModel) -> float:
    """Kernels of a decoded token over the number of layers, as torch's profiler counts them."""
    from torch.profiler import ProfilerActivity, profile

    executor = model.executor()
    assert isinstance(executor, GpuExecutor)
    layers = max(len(model.program.module.calls_of(name)) for name in model.program.module.definitions)
    with model.lease_cache(1, 64) as cache, torch.inference_mode():
        executor.decode([1], [0], cache.states, 1, ())
        replay = executor.replay_of(cache.states)
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            replay()
            torch.cuda.synchronize()
    events = cast("list[object]", seen.events() or [])
    return len([event for event in events if "CUDA" in str(getattr(event, "device_type", ""))]) / layers


def _transformers(shape: Shape, model: LanguageModel, prompt: list[int]) -> float | str:
    """transformers on the model that our export writes, with a static cache and its compiled decode step."""
    import tempfile

    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        return "transformers is not installed"
    make = cast("Callable[..., torch.nn.Module]", AutoModelForCausalLM.from_pretrained)  # pyright: ignore[reportUnknownMemberType]
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save(folder)
            peer = make(folder, dtype=model.dtype).to(model.device).eval()
        except Exception as error:  # what a peer cannot load is told, not raised
            return f"{shape.name}: {type(error).__name__}: {error}".splitlines()[0]
    ids = torch.tensor([prompt], device=model.device)
    generate = cast("Callable[..., object]", peer.generate)
    times: list[float] = []
    for steps in (8, 8, 8 + STEPS, 8 + STEPS):
        started = time.perf_counter()
        generate(ids, max_new_tokens=steps, min_new_tokens=steps, do_sample=False, cache_implementation="static")
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return (times[3] - times[1]) / STEPS
