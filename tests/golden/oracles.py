"""References that transformers does not have, with its interface: composed of its parts, or written from the paper."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false, reportUntypedBaseClass=false
from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.mamba.modeling_mamba import MambaMixer, MambaRMSNorm
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from .gated_linear_oracle import GLAConfig as GLAConfig
from .gated_linear_oracle import GLAForCausalLM as GLAForCausalLM
from .oracle_parts import GatedMlp, StackForCausalLM
from .seq2seq_oracle import T5Decoding as T5Decoding


class HydraConfig(transformers.PreTrainedConfig):
    """Sizes of `HydraForCausalLM`: those of Mamba, and of attention and MLP."""

    model_type = "hydra"

    def __init__(self, **keys: Any) -> None:
        mixer = transformers.MambaConfig().to_dict()
        mixer.update(num_attention_heads=12, head_dim=64, sliding_window=256, max_position_embeddings=8192)
        defaults = {k: v for k, v in mixer.items() if k not in transformers.PreTrainedConfig().to_dict()}
        for name, default in {**defaults, "tie_word_embeddings": False}.items():
            setattr(self, name, keys.pop(name, default))
        self.layer_types = ["linear_attention"] * self.num_hidden_layers
        super().__init__(**keys)

    def to_dict(self) -> dict[str, object]:
        """What is saved."""
        return {key: value for key, value in super().to_dict().items() if key not in ("layer_types", "mixer_config")}


class _WindowedAttention(nn.Module):
    """Softmax attention over the last `sliding_window` tokens, itself counted; no positions."""

    def __init__(self, config: HydraConfig) -> None:
        super().__init__()
        width = config.num_attention_heads * config.head_dim
        self.heads, self.window = config.num_attention_heads, config.sliding_window
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(config.hidden_size, width, bias=False) for _ in range(3))
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        order = torch.arange(x.shape[1])
        distance = order[:, None] - order
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        scores = scores.masked_fill((distance < 0) | (distance >= self.window), -torch.inf)
        return self.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))


class _HydraLayer(nn.Module):
    def __init__(self, config: HydraConfig, index: int) -> None:
        super().__init__()
        keys = set(transformers.MambaConfig().to_dict()) - {"model_type", "intermediate_size", "transformers_version"}
        given: dict[str, Any] = {key: getattr(config, key) for key in keys if hasattr(config, key)}
        given["architectures"] = None
        mixer = transformers.MambaConfig(**given)
        self.norm = MambaRMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mixer = MambaMixer(mixer, index) if index % 2 == 0 else _WindowedAttention(config)
        self.mlp_norm = MambaRMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mlp = GatedMlp(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm(x))
        return x + self.mlp(self.mlp_norm(x))


class _HydraModel(nn.Module):
    def __init__(self, config: HydraConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_HydraLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm_f = MambaRMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm_f(x)


class HydraForCausalLM(StackForCausalLM):
    """State-space mixers of transformers and windowed attention in turn."""

    config_class = HydraConfig
    base_model_prefix = "backbone"
    stack = _HydraModel
    _tied_weights_keys: dict[str, str] = {"lm_head.weight": "backbone.embeddings.weight"}  # noqa: RUF012


class RWKV7Config(transformers.PreTrainedConfig):
    """Sizes of `RWKV7ForCausalLM`, by the keys of flash-linear-attention."""

    model_type = "rwkv7"

    def __init__(self, **keys: Any) -> None:
        defaults: dict[str, object] = {
            "vocab_size": 65536, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "head_dim": 64,
            "decay_low_rank_dim": 64, "a_low_rank_dim": 64, "v_low_rank_dim": 32, "gate_low_rank_dim": 128,
            "norm_eps": 1e-5, "norm_bias": True, "tie_word_embeddings": False,
        }  # fmt: skip
        for name, default in defaults.items():
            setattr(self, name, keys.pop(name, default))
        super().__init__(**keys)


def _shifted(x: Tensor) -> Tensor:
    """x of the token before, zeros before the first."""
    return functional.pad(x, (0, 0, 1, -1))


class _LowRank(nn.Module):
    def __init__(self, width: int, rank: int, inner: nn.Module, *, bias: bool = True) -> None:
        super().__init__()
        self.lora = nn.Sequential(nn.Linear(width, rank, bias=False), inner, nn.Linear(rank, width, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.lora(x)


class _TimeMix(nn.Module):
    """Peng et al. 2025, section 4: equations of the time mixing, token by token."""

    def __init__(self, config: RWKV7Config, index: int) -> None:
        super().__init__()
        width, self.size, self.index = config.hidden_size, config.head_dim, index
        for name in "rwkvag":
            setattr(self, f"x_{name}", nn.Parameter(torch.empty(1, 1, width)))
        self.k_k, self.k_a = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.r_k = nn.Parameter(torch.empty(width // self.size, self.size))
        self.r_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.w_lora = _LowRank(width, config.decay_low_rank_dim, nn.Tanh())
        if index > 0:
            self.v_lora = _LowRank(width, config.v_low_rank_dim, nn.Identity())
        self.a_lora = _LowRank(width, config.a_low_rank_dim, nn.Identity())
        self.g_lora = _LowRank(width, config.gate_low_rank_dim, nn.Sigmoid(), bias=False)
        self.g_norm = nn.GroupNorm(width // self.size, width, eps=self.size * config.norm_eps)

    def forward(self, x: Tensor, v_first: Tensor | None) -> tuple[Tensor, Tensor]:
        change = _shifted(x) - x
        r, w, k, v, a, g = (x + change * self.get_parameter(f"x_{name}") for name in "rwkvag")
        r, k, v_own = self.r_proj(r), self.k_proj(k), self.v_proj(v)
        decay = torch.exp(-torch.exp(torch.tensor(-0.5, dtype=x.dtype)) * torch.sigmoid(self.w_lora(w)))
        v = v_own if v_first is None else v_own + (v_first - v_own) * torch.sigmoid(self.v_lora(v))
        a, g = torch.sigmoid(self.a_lora(a)), self.g_lora(g)
        r, decay, v, a, k = (each.unflatten(-1, (-1, self.size)) for each in (r, decay, v, a, k))
        removal = functional.normalize(k * self.k_k.view(-1, self.size), dim=-1)
        k = k * (1 + (a - 1) * self.k_a.view(-1, self.size))
        batch, tokens, heads, size = k.shape
        state = torch.zeros(batch, heads, size, size, dtype=x.dtype)  # [value, key]
        outputs: list[Tensor] = []
        for t in range(tokens):
            transition = torch.diag_embed(decay[:, t]) - removal[:, t, :, :, None] * (a * removal)[:, t, :, None]
            state = state @ transition + v[:, t, :, :, None] * k[:, t, :, None]
            outputs.append((state @ r[:, t, :, :, None])[..., 0])
        read = self.g_norm(torch.stack(outputs, dim=1).reshape(batch * tokens, -1)).view(batch, tokens, -1)
        bonus = (r * k * self.r_k).sum(-1, keepdim=True) * v
        out: Tensor = self.o_proj((read + bonus.flatten(-2)) * g)
        return (out, v_own) if v_first is None else (out, v_first)


class _ChannelMix(nn.Module):
    def __init__(self, config: RWKV7Config) -> None:
        super().__init__()
        self.x_k = nn.Parameter(torch.empty(config.hidden_size))
        self.key = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.value = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(torch.relu(self.key(x + (_shifted(x) - x) * self.x_k)).square())


class _RecurrentLayer(nn.Module):
    def __init__(self, config: RWKV7Config, index: int) -> None:
        super().__init__()

        def norm() -> nn.Module:
            return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)

        self.pre_norm = norm() if index == 0 else nn.Identity()
        self.attn_norm, self.ffn_norm = norm(), norm()
        self.attn, self.ffn = _TimeMix(config, index), _ChannelMix(config)

    def forward(self, x: Tensor, v_first: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.pre_norm(x)
        mixed, first = self.attn(self.attn_norm(x), v_first)
        x = x + mixed
        return x + self.ffn(self.ffn_norm(x)), first


class _RecurrentModel(nn.Module):
    def __init__(self, config: RWKV7Config) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_RecurrentLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)

    def forward(self, ids: Tensor) -> Tensor:
        x, v_first = self.embeddings(ids), None
        for layer in self.layers:
            x, v_first = layer(x, v_first)
        return self.norm(x)


class RWKV7ForCausalLM(StackForCausalLM):
    """RWKV-7 "Goose" (Peng et al. 2025) with the tensor names of flash-linear-attention."""

    config_class = RWKV7Config
    base_model_prefix = "model"
    stack = _RecurrentModel
    _tied_weights_keys: dict[str, str] = {"lm_head.weight": "model.embeddings.weight"}  # noqa: RUF012


class ChimeraConfig(transformers.DiffLlamaConfig):
    """Sizes of `ChimeraForCausalLM`."""

    model_type = "chimera"
    num_local_experts: int = 8
    num_experts_per_tok: int = 2


class ChimeraForCausalLM(transformers.DiffLlamaForCausalLM):
    """The differential attention of DiffLlama and the experts of Mixtral."""

    config_class = ChimeraConfig

    def __init__(self, config: ChimeraConfig) -> None:
        super().__init__(config)
        config.router_jitter_noise = 0.0  # pyright: ignore[reportAttributeAccessIssue]
        for layer in self.model.layers:
            layer.mlp = MixtralSparseMoeBlock(config)
        del config.router_jitter_noise  # pyright: ignore[reportAttributeAccessIssue]


for _config in (ChimeraConfig, GLAConfig, HydraConfig, RWKV7Config):
    transformers.AutoConfig.register(_config.model_type, _config, exist_ok=True)
