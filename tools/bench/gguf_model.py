# pyright: basic, reportMissingImports=false
"""Writes a folder of Llama, Mixtral, GPT-2 or Mamba as GGUF: `python gguf_model.py FOLDER FILE TYPE`.

TYPE is one of BF16, Q8_0, Q4_0, TQ2_0. Runs in the environment of llama-cpp-python (numpy and gguf), so it imports
nothing of llmc. Every matrix gets the type where its rows are whole groups of it, else BF16; the head of TQ2_0 is Q8_0,
as that of our ternary models is int8, and the table of the embedding keeps the type of the head. Vectors, convolutions
and what a scan decays by are float32. There is no vocabulary: prompts are token ids.
"""

from __future__ import annotations

import json
import mmap
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np

LLAMA = {
    r"model\.embed_tokens\.weight": "token_embd.weight",
    r"model\.norm\.weight": "output_norm.weight",
    r"lm_head\.weight": "output.weight",
    r"model\.layers\.(\d+)\.self_attn\.q_proj\.weight": "blk.{0}.attn_q.weight",
    r"model\.layers\.(\d+)\.self_attn\.k_proj\.weight": "blk.{0}.attn_k.weight",
    r"model\.layers\.(\d+)\.self_attn\.v_proj\.weight": "blk.{0}.attn_v.weight",
    r"model\.layers\.(\d+)\.self_attn\.o_proj\.weight": "blk.{0}.attn_output.weight",
    r"model\.layers\.(\d+)\.mlp\.gate_proj\.weight": "blk.{0}.ffn_gate.weight",
    r"model\.layers\.(\d+)\.mlp\.up_proj\.weight": "blk.{0}.ffn_up.weight",
    r"model\.layers\.(\d+)\.mlp\.down_proj\.weight": "blk.{0}.ffn_down.weight",
    r"model\.layers\.(\d+)\.block_sparse_moe\.gate\.weight": "blk.{0}.ffn_gate_inp.weight",
    r"model\.layers\.(\d+)\.block_sparse_moe\.experts\.(\d+)\.w1\.weight": "blk.{0}.ffn_gate_exps.weight",
    r"model\.layers\.(\d+)\.block_sparse_moe\.experts\.(\d+)\.w2\.weight": "blk.{0}.ffn_down_exps.weight",
    r"model\.layers\.(\d+)\.block_sparse_moe\.experts\.(\d+)\.w3\.weight": "blk.{0}.ffn_up_exps.weight",
    r"model\.layers\.(\d+)\.input_layernorm\.weight": "blk.{0}.attn_norm.weight",
    r"model\.layers\.(\d+)\.post_attention_layernorm\.weight": "blk.{0}.ffn_norm.weight",
}
GPT2 = {
    r"transformer\.wte\.weight": "token_embd.weight",
    r"transformer\.wpe\.weight": "position_embd.weight",
    r"transformer\.ln_f\.(weight|bias)": "output_norm.{0}",
    r"transformer\.h\.(\d+)\.ln_1\.(weight|bias)": "blk.{0}.attn_norm.{1}",
    r"transformer\.h\.(\d+)\.ln_2\.(weight|bias)": "blk.{0}.ffn_norm.{1}",
    r"transformer\.h\.(\d+)\.attn\.c_attn\.(weight|bias)": "blk.{0}.attn_qkv.{1}",
    r"transformer\.h\.(\d+)\.attn\.c_proj\.(weight|bias)": "blk.{0}.attn_output.{1}",
    r"transformer\.h\.(\d+)\.mlp\.c_fc\.(weight|bias)": "blk.{0}.ffn_up.{1}",
    r"transformer\.h\.(\d+)\.mlp\.c_proj\.(weight|bias)": "blk.{0}.ffn_down.{1}",
}
MAMBA = {
    r"backbone\.embeddings\.weight": "token_embd.weight",
    r"backbone\.norm_f\.weight": "output_norm.weight",
    r"backbone\.layers\.(\d+)\.norm\.weight": "blk.{0}.attn_norm.weight",
    r"backbone\.layers\.(\d+)\.mixer\.in_proj\.weight": "blk.{0}.ssm_in.weight",
    r"backbone\.layers\.(\d+)\.mixer\.conv1d\.(weight|bias)": "blk.{0}.ssm_conv1d.{1}",
    r"backbone\.layers\.(\d+)\.mixer\.x_proj\.weight": "blk.{0}.ssm_x.weight",
    r"backbone\.layers\.(\d+)\.mixer\.dt_proj\.(weight|bias)": "blk.{0}.ssm_dt.{1}",
    r"backbone\.layers\.(\d+)\.mixer\.A_log": "blk.{0}.ssm_a",
    r"backbone\.layers\.(\d+)\.mixer\.D": "blk.{0}.ssm_d",
    r"backbone\.layers\.(\d+)\.mixer\.out_proj\.weight": "blk.{0}.ssm_out.weight",
}
"""Name in the checkpoint -> name in the file, with what the pattern found."""

KEPT = ("ssm_a", "ssm_d", "ssm_conv1d.weight", "position_embd.weight", "ffn_gate_inp.weight")
"""What llama.cpp wants in float32, by the end of the name."""


def read(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
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


def renamed(name: str, names: dict[str, str]) -> tuple[str, int | None]:
    """The name in the file, and which expert it is."""
    for pattern, target in names.items():
        found = re.fullmatch(pattern, name)
        if found:
            return target.format(*found.groups()), int(found[2]) if "_exps" in target else None
    sys.exit(f"{name} has no name in GGUF")


def neighbours(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from (first half, second half) to pairs: llama.cpp rotates neighbours for this architecture."""
    rows, inputs = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, inputs).swapaxes(1, 2).reshape(rows, inputs)


def llama(writer: gguf.GGUFWriter, config: dict) -> Callable[[str, np.ndarray], np.ndarray]:
    """Describe a Llama or Mixtral; how its tensors change."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(float(theta))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "num_local_experts" in config:
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])

    def change(name: str, values: np.ndarray) -> np.ndarray:
        if ".attn_q." in name or ".attn_k." in name:
            return neighbours(values, heads if ".attn_q." in name else kv_heads)
        return values

    return change


def gpt2(writer: gguf.GGUFWriter, config: dict) -> Callable[[str, np.ndarray], np.ndarray]:
    """Describe a GPT-2; its matrices are stored as inputs by outputs."""
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    return lambda name, values: values.T if values.ndim == 2 and name.startswith("blk.") else values


def mamba(writer: gguf.GGUFWriter, config: dict) -> Callable[[str, np.ndarray], np.ndarray]:
    """Describe a Mamba; the file holds its decay, not the logarithm."""
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_ssm_conv_kernel(config["conv_kernel"])
    writer.add_ssm_inner_size(config["intermediate_size"])
    writer.add_ssm_state_size(config["state_size"])
    writer.add_ssm_time_step_rank(config["time_step_rank"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])

    def change(name: str, values: np.ndarray) -> np.ndarray:
        if name.endswith("ssm_a"):
            return -np.exp(values)
        return values[:, 0] if name.endswith("ssm_conv1d.weight") else values

    return change


ARCHITECTURES = {
    "llama": ("llama", LLAMA, llama),
    "mixtral": ("llama", LLAMA, llama),
    "gpt2": ("gpt2", GPT2, gpt2),
    "mamba": ("mamba", MAMBA, mamba),
}
"""model_type of config.json -> llama.cpp's word for it, names, and what describes it."""


def tensors(folder: Path, names: dict[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    """By their names in the file; the experts of a layer as one tensor."""
    experts: dict[str, dict[int, np.ndarray]] = {}
    for old, values in read(folder):
        name, expert = renamed(old, names)
        if expert is None:
            yield name, values
        else:
            experts.setdefault(name, {})[expert] = values
    for name, parts in experts.items():
        yield name, np.stack([parts[number] for number in range(len(parts))])


def main() -> None:
    """Writes the file."""
    folder, target, kind = Path(sys.argv[1]), sys.argv[2], gguf.GGMLQuantizationType[sys.argv[3]]
    plain = gguf.GGMLQuantizationType.BF16
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] not in ARCHITECTURES:
        sys.exit(f"{config['model_type']} is not written as GGUF; {', '.join(ARCHITECTURES)} are")
    architecture, names, describe = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(target, architecture)
    change = describe(writer, config)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, given in tensors(folder, names):
        values = np.ascontiguousarray(change(name, given))
        if values.ndim == 1 or name.endswith(KEPT):
            writer.add_tensor(name, values.astype("<f4"))
            continue
        is_head = name in ("output.weight", "token_embd.weight")
        chosen = gguf.GGMLQuantizationType.Q8_0 if is_head and kind.name == "TQ2_0" else kind
        if values.shape[-1] % gguf.GGML_QUANT_SIZES[chosen][0]:
            chosen = plain
        writer.add_tensor(name, gguf.quants.quantize(values, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
