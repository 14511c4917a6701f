"""Where a reference saves or widens its tensors otherwise than published checkpoints have them."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1Mixer, compute_mup_vector
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

CONVOLUTIONS = ("q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight")


def split_by_width(tensors: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers saves one convolution over q, k and v as thirds; checkpoints have each as wide as its projection.

    `tensors` by the names of a checkpoint, `whole` by those of the reference -> `tensors` as a checkpoint has them.
    """
    found = dict(tensors)
    for name in tensors:
        if name.endswith(CONVOLUTIONS[0]):
            mixer = name.removesuffix(CONVOLUTIONS[0])
            widths = [len(tensors[f"{mixer}{part}_proj.weight"]) for part in "qkv"]
            parts = whole[f"{mixer}conv1d.weight"].detach().split(widths)
            found.update((mixer + part, tensor.clone()) for part, tensor in zip(CONVOLUTIONS, parts, strict=True))
    return found


def resave(reference: nn.Module, folder: Path) -> None:
    """Put right what `save_pretrained` wrote."""
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        if any(name.endswith(CONVOLUTIONS[0]) for name in tensors):
            whole = dict(reference.named_parameters())
            save_file(split_by_width(tensors, whole), file, metadata={"format": "pt"})


def derive_again(wide: nn.Module) -> None:
    """Buffers that follow from the config, which were rounded to float32 before the model became float64."""
    torch.set_default_dtype(torch.float64)
    try:
        for module in wide.modules():
            if isinstance(module, MiniMaxLightningAttention):
                slopes = module.get_slope_rate()
                buffers = (module.query_decay, module.key_decay, module.diagonal_decay)
                module.slope_rate.copy_(slopes)
                for buffer, value in zip(buffers, module.decay_factors(slopes), strict=True):
                    buffer.copy_(value)
            elif isinstance(module, FalconH1Mixer):
                module.get_buffer("mup_vector").copy_(compute_mup_vector(wide.config))
    finally:
        torch.set_default_dtype(torch.float32)
