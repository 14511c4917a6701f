"""Gated linear attention token by token (Yang et al. 2024, section 4), with the names of flash-linear-attention."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false, reportUntypedBaseClass=false
from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from .oracle_parts import GatedMlp, StackForCausalLM


class GLAConfig(transformers.PreTrainedConfig):
    """Sizes of `GLAForCausalLM`."""

    model_type = "gla"

    def __init__(self, **keys: Any) -> None:
        defaults: dict[str, object] = {
            "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
            "num_heads": 4, "expand_k": 0.5, "expand_v": 1.0, "norm_eps": 1e-6, "tie_word_embeddings": False,
        }  # fmt: skip
        for name, default in defaults.items():
            setattr(self, name, keys.pop(name, default))
        super().__init__(**keys)


class _GatedLinearAttention(nn.Module):
    RANK = 16
    NORMALIZER = 16

    def __init__(self, config: GLAConfig) -> None:
        super().__init__()
        width, self.heads, self.eps = config.hidden_size, config.num_heads, config.norm_eps
        keys, values = int(width * config.expand_k), int(width * config.expand_v)
        self.q_proj, self.k_proj = (nn.Linear(width, keys, bias=False) for _ in range(2))
        self.v_proj, self.g_proj = (nn.Linear(width, values, bias=False) for _ in range(2))
        self.gk_proj = nn.Sequential(nn.Linear(width, self.RANK, bias=False), nn.Linear(self.RANK, keys))
        self.g_norm_swish_gate = nn.RMSNorm(values // self.heads, eps=self.eps)
        self.o_proj = nn.Linear(values, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        alpha = torch.sigmoid(self.gk_proj(x)) ** (1 / self.NORMALIZER)
        q, k, v, alpha = (
            part.unflatten(-1, (self.heads, -1)) for part in (self.q_proj(x), self.k_proj(x), self.v_proj(x), alpha)
        )  # [B, T, H, D]
        state = x.new_zeros(x.shape[0], self.heads, k.shape[-1], v.shape[-1])  # [B, H, Dk, Dv]
        read: list[Tensor] = []
        for t in range(x.shape[1]):
            state = alpha[:, t, :, :, None] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
            read.append(torch.einsum("bhk,bhkv->bhv", q[:, t] * k.shape[-1] ** -0.5, state))
        normed = self.g_norm_swish_gate(torch.stack(read, dim=1)).flatten(-2)
        return self.o_proj(normed * functional.silu(self.g_proj(x)))


class _Layer(nn.Module):
    def __init__(self, config: GLAConfig) -> None:
        super().__init__()
        self.attn_norm, self.mlp_norm = (nn.RMSNorm(config.hidden_size, eps=config.norm_eps) for _ in range(2))
        self.attn, self.mlp = _GatedLinearAttention(config), GatedMlp(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class _Stack(nn.Module):
    def __init__(self, config: GLAConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class GLAForCausalLM(StackForCausalLM):
    """The whole model."""

    config_class = GLAConfig
    base_model_prefix = "model"
    stack = _Stack
    _tied_weights_keys: dict[str, str] = {"lm_head.weight": "model.embeddings.weight"}  # noqa: RUF012
