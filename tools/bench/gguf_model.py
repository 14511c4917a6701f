# pyright: basic, reportMissingImports=false
"""Writes a Llama folder as GGUF: `python gguf_model.py FOLDER FILE TYPE`, TYPE one of BF16, Q8_0, Q4_0, TQ2_0.

Runs in the environment of llama-cpp-python (numpy and gguf), so it imports nothing of llmc. Every matrix gets the type;
the head of TQ2_0 is Q8_0, as that of our ternary models is int8, and the table of the embedding keeps the type of the
head. Norms are float32. Rows of q and k are reordered, because llama.cpp rotates neighbours where the checkpoint
rotates halves. There is no vocabulary: prompts are token ids.
"""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path

import gguf
import numpy as np

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def read(folder: Path):
    """Name and float32 array of every tensor of model.safetensors, which holds bfloat16 or float32."""
    with open(folder / "model.safetensors", "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    size = int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        first, last = (8 + size + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(data[first:last], dtype="<u2").astype("<u4") << 16).view("<f4")
        elif entry["dtype"] == "F32":
            values = np.frombuffer(data[first:last], dtype="<f4")
        else:
            sys.exit(f"{name} is {entry['dtype']}; BF16 or F32 is needed")
        yield name, values.reshape(entry["shape"])


def renamed(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`."""
    stem = name.removesuffix(".weight")
    if stem in TOP:
        return f"{TOP[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def neighbours(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from (first half, second half) to pairs."""
    rows, inputs = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, inputs).swapaxes(1, 2).reshape(rows, inputs)


def main() -> None:
    """Writes the file."""
    folder, target, kind = Path(sys.argv[1]), sys.argv[2], gguf.GGMLQuantizationType[sys.argv[3]]
    head = gguf.GGMLQuantizationType.Q8_0 if kind.name == "TQ2_0" else kind
    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(float(theta))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, values in read(folder):
        if values.ndim == 1:
            writer.add_tensor(renamed(name), values)
            continue
        if ".q_proj." in name or ".k_proj." in name:
            values = neighbours(values, heads if ".q_proj." in name else kv_heads)
        chosen = head if name.startswith(("lm_head", "model.embed_tokens")) else kind
        packed = gguf.quants.quantize(np.ascontiguousarray(values), chosen)
        writer.add_tensor(renamed(name), packed, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
