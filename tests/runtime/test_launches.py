"""What a pass really launches: Triton kernels and torch's operators that compute, counted while it runs."""

# pyright: basic
from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from triton.runtime.interpreter import GridExecutor

import llmc
from llmc.compiler.program import kernels_are_on, passes_are_on
from llmc.kernels.gpu.arrivals import arrivals
from llmc.kernels.gpu.op import is_interpreted
from llmc.runtime.execute import TorchExecutor
from llmc.runtime.storage import ParameterBinder, tensors_of

SIZES = {
    "hidden_size": 32, "num_heads": 2, "num_kv_heads": 1, "vocab_size": 31, "intermediate_size": 24, "num_layers": 1,
    "max_seq_len": 256,
}  # fmt: skip
FREE = (
    "view", "expand", "permute", "transpose", "slice", "select", "split", "split_with_sizes", "unsqueeze", "detach",
    "alias", "empty", "new_empty", "_unsafe_view", "as_strided", "t", "llmc",
)  # fmt: skip


class Counting(TorchDispatchMode):
    """Counts operators that are no views and allocate no more than memory, outside the interpreter."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.is_launching = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")[0 if str(func).startswith("llmc") else 1]
        if not self.is_launching and name not in FREE:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def counted(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> Counter[str]:
    """What a call launches, by the names of kernels and operators."""
    launch, counting = GridExecutor.__call__, Counting()

    def seen(self: Any, *args: Any, **kwargs: Any) -> Any:
        counting.found[self.fn.__name__] += 1
        counting.is_launching = True
        try:
            return launch(self, *args, **kwargs)
        finally:
            counting.is_launching = False

    with monkeypatch.context() as patch, counting:
        patch.setattr(GridExecutor, "__call__", seen)
        run()
    return counting.found


@pytest.mark.skipif(not (is_interpreted() and kernels_are_on() and passes_are_on()), reason="about interpreted kernels")
def test_a_layer_is_five_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a token in a cache of 256 slots, which one key head cuts into shares: two layers against one. The mask of the
    prompt before it is planned once, whatever the layers."""
    prompts, tokens = [], []
    for layers in (1, 2):
        sizes = {**SIZES, "num_layers": layers + 1}
        model = llmc.load("llama", params=sizes, dtype="float16")
        program = llmc.build("llama", params=sizes, device="cuda:sm_90", dtype="float16")
        executor = TorchExecutor(program, [tuple(tensors_of(one)) for one in ParameterBinder(model, program).bind()])
        cache = model.new_cache(1, 256)
        for state in cache.states.values():
            arrivals(state[0], SIZES["num_heads"])  # made at a cache's first token
        for given, found in (([1, 2, 3], prompts), ([4], tokens)):
            inputs = {"tokens": torch.tensor([given])}
            with torch.inference_mode():
                found.append(counted(monkeypatch, partial(model.run_program, inputs, cache, None, executor=executor)))
    assert [found["_plan"] for found in prompts] == [1, 1]
    of_a_layer = tokens[1] - tokens[0]
    assert "_plan" not in tokens[1]
    assert of_a_layer["append_attend_kernel"] == 1
    assert of_a_layer.total() == 5, dict(of_a_layer)
