"""Families with an encoder and a decoder: the table, in awkward sizes, and how their goldens are made."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor

from llmc.compiler.ops.declaration import Value

from .family import VOCAB, Family
from .random_weights import randomise
from .reference import BATCH, TOKENS, Golden, float64_throughout, outputs_of
from .seq2seq_oracle import T5Decoding

SOURCE = 29
"""Tokens that the encoder reads."""
START = 7
"""What the decoder begins with."""


@dataclass(kw_only=True, repr=False)
class Seq2SeqGolden(Golden):
    """A golden whose encoder has read `inputs["encoder_tokens"]`."""

    def ask(self, tokens: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """The reference's outputs; the encoder's own tokens, as many rows as are needed, where none are given."""
        source = inputs.pop("encoder_tokens", self.inputs["encoder_tokens"])
        source = source[:1].expand(len(tokens), -1) if len(source) != len(tokens) else source
        return super().ask(tokens, encoder_tokens=source, **inputs)


def make_seq2seq(family: Family, folder: Path) -> Seq2SeqGolden:
    """Randomise, save as the checkpoints of the family are, and answer."""
    config = transformers.T5Config(**family.kwargs, attn_implementation="eager")  # pyright: ignore[reportCallIssue]
    reference = T5Decoding(config)
    randomise(reference, seed=family.seed, embedding_std=family.embedding_std, bias_std=family.bias_std)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name.endswith(".q.weight"):  # the reference does not scale scores
                parameter.mul_(config.d_kv**-0.5)
        if config.tie_word_embeddings and not family.kwargs.get("has_head"):
            # half of the signs turned, or each token would be its own likeliest successor
            reference.decoder.final_layer_norm.weight[::2].mul_(-1)
    reference.eval()
    reference.save_pretrained(folder, max_shard_size="40KB" if family.is_sharded else "1GB")
    _spell_config(folder, has_head=bool(family.kwargs.get("has_head")))
    generator = torch.Generator().manual_seed(family.seed + 1)
    tokens = torch.randint(0, VOCAB, (BATCH, TOKENS), generator=generator)
    golden = Seq2SeqGolden(family=family, folder=folder, reference=reference, tokens=tokens)
    golden.inputs["encoder_tokens"] = torch.randint(0, VOCAB, (BATCH, SOURCE), generator=generator)
    golden.expected = golden.ask(tokens, **golden.inputs)
    wide = copy.deepcopy(reference).double()
    with torch.no_grad(), float64_throughout(wide):
        golden.exact = outputs_of(wide(tokens, **golden.inputs), family.spec)
    return golden


def _spell_config(folder: Path, *, has_head: bool) -> None:
    """config.json under the architecture's own name; with an output matrix of its own as the released files say it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["architectures"] = ["T5ForConditionalGeneration"]
    if has_head:
        del config["has_head"], config["scale_decoder_outputs"]
        config["tie_word_embeddings"] = False
    path.write_text(json.dumps(config))


_KEYS = {
    "hidden_size": "d_model", "intermediate_size": "d_ff", "head_dim": "d_kv", "layer_norm_eps": "layer_norm_epsilon",
    "num_buckets": "relative_attention_num_buckets", "max_distance": "relative_attention_max_distance",
    "dropout": "dropout_rate", "feed_forward": "feed_forward_proj",
}  # fmt: skip


def _t5(name: str, *, seed: int, embedding_std: float, is_sharded: bool = False, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 76, "num_layers": 2, "num_decoder_layers": 3,
        "num_heads": 5, "head_dim": 14, "num_buckets": 12, "max_distance": 19, "feed_forward": "relu", "dropout": 0.0,
        "layer_norm_eps": 2e-3, "tie_word_embeddings": True, "scale_decoder_outputs": True, **changes,
    }  # fmt: skip
    own = ("tie_word_embeddings", "scale_decoder_outputs")
    kwargs: dict[str, object] = {_KEYS.get(key, key): value for key, value in params.items() if key not in own}
    kwargs |= {
        "feed_forward_proj": str(params["feed_forward"]).replace("_", "-"), "decoder_start_token_id": START,
        "eos_token_id": None, "pad_token_id": 0, "tie_word_embeddings": bool(params["scale_decoder_outputs"]),
    }  # fmt: skip
    if not params["tie_word_embeddings"]:
        kwargs["has_head"] = True
    return Family(
        name=name, spec="t5", config="T5Config", model="T5Decoding", kwargs=kwargs, params=params, eps="layer_norm_eps",
        seed=seed, is_sharded=is_sharded, embedding_std=embedding_std, mistakes=_mistakes(params),
    )  # fmt: skip


Mistakes = Mapping[str, Mapping[str, Mapping[str, Value]]]


def _attend(block: str, **fields: Value) -> Mapping[str, Mapping[str, Value]]:
    return {"overlay": {"blocks": {block: {"nodes": {"attend": fields}}}}}  # type: ignore[dict-item]


def _bias(side: str, **fields: Value) -> Mapping[str, Mapping[str, Value]]:
    path = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
    return {"overlay": {"graph": {"nodes": {path: fields}}}}  # type: ignore[dict-item]


def _mistakes(params: Mapping[str, Value]) -> Mistakes:
    distance = int(str(params["max_distance"]))
    other = {"relu": "gelu", "gated_gelu": "gated_silu", "gated_silu": "gated_gelu"}[str(params["feed_forward"])]
    found: dict[str, Mapping[str, Mapping[str, Value]]] = {
        "scores_x1.1": _attend("self_attention", scale=1.1),
        "cross_scores_x1.1": _attend("cross_attention", scale=1.1),
        "scores_scaled_by_head_dim": _attend("self_attention", scale="1 / sqrt(head_dim)"),
        "window_one_short_of_all": _attend("self_attention", window=SOURCE - 1),
        "cross_window": _attend("cross_attention", window=SOURCE - 1),
        "eps_x10": {"params": {"layer_norm_eps": 10 * float(str(params["layer_norm_eps"]))}},
        "max_distance+4": {"params": {"max_distance": distance + 4}},
        "max_distance-4": {"params": {"max_distance": distance - 4}},
        "encoder_bias_causal": _bias("encoder", bidirectional=False),
        "decoder_bias_bidirectional": _bias("decoder", bidirectional=True),
        "other_output_scale": {"params": {"scale_decoder_outputs": not params["scale_decoder_outputs"]}},
    }  # fmt: skip
    causal = {"encoder_layer": {"nodes": {"layer.0.SelfAttention": {"with": {"mask": "'causal'"}}}}}
    found["encoder_is_causal"] = {"overlay": {"blocks": causal}}  # type: ignore[dict-item]
    plain = {"encoder.final_layer_norm": {"op": "scale", "in": "encoder.block", "factor": 1.0}}
    spare = ["encoder.final_layer_norm.weight", "decoder.embed_tokens.weight"]
    found["encoder_is_not_normed"] = {"overlay": {"graph": {"nodes": plain}, "weights": {"ignore": spare}}}  # type: ignore[dict-item]
    if other in ("gated_silu", "gated_gelu"):
        found["other_gate"] = {"params": {"feed_forward": other}}
    else:
        found["other_activation"] = {"overlay": {"blocks": {"plain": {"nodes": {"act": {"kind": other}}}}}}  # type: ignore[dict-item]
    return found


SEQ2SEQ: tuple[Family, ...] = (
    _t5("t5", is_sharded=True, embedding_std=3.0, seed=1),
    _t5("t5_gated", num_layers=3, num_decoder_layers=2, num_buckets=11, max_distance=23, feed_forward="gated_gelu",
        tie_word_embeddings=False, scale_decoder_outputs=False, embedding_std=0.5, seed=1),
    _t5("t5_one_layer", num_layers=1, num_decoder_layers=1, feed_forward="gated_silu", scale_decoder_outputs=False,
        embedding_std=1.5, seed=2),
)  # fmt: skip
