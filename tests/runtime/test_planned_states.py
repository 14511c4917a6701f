"""Every packaged spec: a cache takes exactly the bytes that the plan says, without waste."""

from __future__ import annotations

import pytest
import torch

from llmc.compiler.pipeline import read
from llmc.compiler.plan import model_states, plan
from llmc.compiler.weight_map import weight_map
from llmc.runtime.cache import Cache
from llmc.specs.packaged import packaged_names

BATCH, CONTEXT = 2, 300
"""Longer than the chunks and shorter than most windows."""


@pytest.mark.parametrize("name", packaged_names())
def test_allocated_bytes_are_those_of_the_plan(name: str) -> None:
    spec, model = read(name)
    states = dict(model_states(model))
    if any(state.kind == "cross_kv" for state in states.values()):
        pytest.skip("its size is known at the first call: test_encoder_decoder.py compares it then")
    length = spec.environment.get("max_seq_len")
    context = min(CONTEXT, length) if isinstance(length, int) else CONTEXT
    ties = weight_map(spec, model).ties
    for cached, kv_dtype in ((None, None), ("float8_e4m3fn", torch.float8_e4m3fn)):
        planned = plan(model, ties, batch=BATCH, context=context, dtype="bfloat16", cache_dtype=cached)
        cache = Cache(
            states, batch_size=BATCH, max_seq_len=context, dtype=torch.bfloat16, device=torch.device("meta"),
            snapshots=0, kv_dtype=kv_dtype,
        )  # fmt: skip
        allocated = sum(x.nbytes for state in cache.states.values() for x in state)
        assert allocated == cache.bytes == planned.state_bytes == sum(state.bytes for state in planned.states)
        assert {state.path for state in planned.states} == set(cache.states)
