"""Ways to be subtly wrong, by family: a spec that extends the right one, other params, or an edit of the weights."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmc.compiler.ops.declaration import Value
from llmc.runtime.model import LanguageModel

from .families import Family
from .reference import TOKENS


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One mistake."""

    name: str
    overlay: Mapping[str, object] = field(default_factory=dict[str, object])
    """What a spec that extends the family's changes."""
    params: Mapping[str, Value] = field(default_factory=dict[str, Value])
    edit: Callable[[LanguageModel], None] | None = None


def mutations(family: Family) -> Iterator[Mutation]:
    """Every mistake that applies to a family."""
    if family.mistakes is not None:
        for name, change in family.mistakes.items():
            yield Mutation(name=name, overlay=change.get("overlay", {}), params=change.get("params", {}))
        return
    yield Mutation(name="attention_scale_x1.1", overlay=_attention(attend={"scale": _scale(family, 1.1)}))
    yield Mutation(name="eps_x10", params={family.eps: 10 * float(str(family.params[family.eps]))})
    yield from _windows(family)
    yield from _positions(family)
    yield from _gates(family)
    yield Mutation(name="norm_weights_dropped", edit=_fill("norm", "ln_", suffix="weight", value=1.0))
    if family.spec in ("gpt2", "phi") or family.params.get("attention_bias"):
        yield Mutation(name="attention_biases_dropped", edit=_fill("attn", suffix="bias", value=0.0))
    if family.spec in ("gpt2", "phi") or family.params.get("mlp_bias"):
        yield Mutation(name="mlp_biases_dropped", edit=_fill("mlp", suffix="bias", value=0.0))
    if family.spec in ("gpt2", "phi"):
        yield Mutation(name="norm_biases_dropped", edit=_fill("norm", "ln_", suffix="bias", value=0.0))
    if family.spec == "gpt2":
        for param in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx"):
            if param == "scale_attn_weights" or family.num_layers > 1:
                yield Mutation(name=f"other_{param}", params={param: not family.params[param]})
    if family.params.get("num_kv_heads", family.params["num_heads"]) != family.params["num_heads"]:
        yield Mutation(name="kv_heads_rotated", edit=_roll_kv_heads)


def _attention(**nodes: object) -> dict[str, object]:
    return {"blocks": {"attention": {"nodes": nodes}}}


def _scale(family: Family, factor: float) -> str:
    scaled = f"{factor} / sqrt(head_dim)"
    return f"{scaled} if scale_attn_weights else {factor}" if family.spec == "gpt2" else scaled


def _windows(family: Family) -> Iterator[Mutation]:
    if family.window is None:
        name = "window_one_short_of_all"
        if "sliding_window" in family.params:
            yield Mutation(name=name, params={"sliding_window": TOKENS - 1})
        else:
            yield Mutation(name=name, overlay=_attention(attend={"window": TOKENS - 1}))
        return
    for change in (-1, 1):
        yield Mutation(name=f"window{change:+}", params={"sliding_window": family.window + change})
    yield Mutation(name="no_window", params={"sliding_window": None})


def _positions(family: Family) -> Iterator[Mutation]:
    if family.spec == "gpt2":
        yield Mutation(name="positions_from_1", edit=_roll_positions)
        return
    both = ("q_rope", "k_rope")
    yield Mutation(name="rope_pairs_interleaved", overlay=_attention(**{n: {"layout": "interleaved"} for n in both}))
    yield Mutation(name="rope_theta_x1.1", params={"rope_theta": 1.1 * float(str(family.params["rope_theta"]))})
    keys = "qkv:k" if family.spec == "phi3" else "k_proj"
    yield Mutation(name="rope_on_q_only", overlay=_attention(attend={"k": keys}, k_rope=None))
    if "partial_rotary_factor" in family.params:
        other = 0.6 if family.params["partial_rotary_factor"] != 0.6 else 0.8
        if family.params.get("rope_scaling") != "longrope":
            yield Mutation(name="rotary_part", params={"partial_rotary_factor": other})
    match family.params.get("rope_scaling"):
        case "llama3":
            yield Mutation(name="llama3_factor", params={"rope_factor": 7.0})
            yield Mutation(name="llama3_low_freq_factor", params={"rope_low_freq_factor": 1.5})
            yield Mutation(name="llama3_high_freq_factor", params={"rope_high_freq_factor": 3.0})
            yield Mutation(name="llama3_original_length", params={"rope_original_max_seq_len": 48})
        case "linear":
            yield Mutation(name="linear_factor", params={"rope_factor": 2.6})
        case "longrope":
            swapped = {"rope_short_factor": family.params["rope_long_factor"]}
            yield Mutation(name="longrope_long_factors", params=swapped)
            yield Mutation(name="longrope_attention_factor", params={"max_seq_len": 151})
        case _:
            pass


def _gates(family: Family) -> Iterator[Mutation]:
    match family.spec:
        case "llama" | "mistral":
            yield Mutation(name="gate_and_up_swapped", edit=_swap_gate_and_up)
        case "phi3":
            yield Mutation(name="gate_and_up_swapped", edit=_swap_halves)
        case _:
            used = family.params["activation"]
            yield Mutation(name="other_gelu", params={"activation": "gelu_tanh" if used == "gelu" else "gelu"})


def _fill(*parts: str, suffix: str, value: float) -> Callable[[LanguageModel], None]:
    def edit(model: LanguageModel) -> None:
        chosen = [p for path, p in model.named_parameters() if path.endswith(suffix) and any(s in path for s in parts)]
        assert chosen
        for parameter in chosen:
            parameter.fill_(value)

    return edit


def _swap_gate_and_up(model: LanguageModel) -> None:
    parameters = dict(model.named_parameters())
    for path, gate in parameters.items():
        if ".gate_proj." in path:
            _swap(gate, parameters[path.replace("gate_proj", "up_proj")])


def _swap_halves(model: LanguageModel) -> None:
    for path, parameter in model.named_parameters():
        if ".gate_up_proj." in path:
            _swap(*parameter.chunk(2))


def _swap(first: Tensor, second: Tensor) -> None:
    kept = first.clone()
    first.copy_(second)
    second.copy_(kept)


def _roll_kv_heads(model: LanguageModel) -> None:
    """Each group of query heads reads the next key and value head."""
    for path, parameter in model.named_parameters():
        fields = model.program.spec.environment
        heads, head_dim = int(str(fields["num_kv_heads"])), int(str(fields["head_dim"]))
        if path.endswith(("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")):
            parameter.copy_(parameter.clone().roll(head_dim, dims=0))
        elif path.endswith("qkv_proj.weight"):
            size = heads * head_dim
            for part in (parameter[-2 * size : -size], parameter[-size:]):
                part.copy_(part.clone().roll(head_dim, dims=0))


def _roll_positions(model: LanguageModel) -> None:
    positions = model.get_parameter("transformer.wpe.weight")
    positions.copy_(positions.clone().roll(-1, dims=0))


def edited(model: LanguageModel, edit: Callable[[LanguageModel], None] | None) -> None:
    """Apply an edit of the weights in place."""
    if edit is not None:
        with torch.no_grad():
            edit(model)
