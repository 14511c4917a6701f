"""Generated arguments of `experts`: every packing and layout, odd sizes, an expert that nobody picks."""

# pyright: basic
from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from .gpu import DEVICE


@st.composite
def cases(draw: st.DrawFn, numbers: tuple[int, ...]) -> dict[str, object]:
    """Arguments of `experts` in float64, all but x, weights and picks by name; the last expert is never picked."""
    tokens, picks, count = draw(st.sampled_from(numbers)), draw(st.integers(1, 3)), 5
    width, inner = draw(st.sampled_from([3, 17, 40])), draw(st.sampled_from([1, 5, 33]))
    packing = draw(st.sampled_from(["separate", "halves", "interleaved", "ungated"]))
    layout, has_bias = draw(st.sampled_from(["out_in", "in_out"])), draw(st.booleans())
    make = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    shapes = {"down_proj": (width, inner)}
    if packing in ("halves", "interleaved"):
        shapes["gate_up_proj"] = (2 * inner, width)
    else:
        shapes |= {"up_proj": (inner, width)} | ({"gate_proj": (inner, width)} if packing == "separate" else {})
    given: dict[str, object] = {"x": random(1, tokens, width), "weights": random(1, tokens, picks).sigmoid()}
    given["experts"] = torch.randint(0, count - 1, (1, tokens, picks), generator=make)
    for name, (out, size) in shapes.items():
        weight = random(count, out, size) / size**0.5
        given[name] = weight if layout == "out_in" else weight.transpose(1, 2).contiguous()
        if has_bias:
            given[f"{name}_bias"] = random(count, out)
    return given | {
        "packing": packing if "gate_up_proj" in shapes else "separate",
        "layout": layout,
        "activation": draw(st.sampled_from(["silu", "gelu_tanh", "relu2"])),
        "limit": draw(st.sampled_from([None, 0.4])),
        "up_offset": draw(st.sampled_from([0.0, 1.0])),
        "weighs": draw(st.sampled_from(["output", "input"])),
    }


def typed(given: dict[str, object], dtype: torch.dtype) -> dict[str, object]:
    """Floating tensors in this dtype but the weights, which routers give in float32."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return {
        name: value.to(DEVICE, (wide if name == "weights" else dtype) if value.is_floating_point() else value.dtype)
        if isinstance(value, Tensor)
        else value
        for name, value in given.items()
    }
