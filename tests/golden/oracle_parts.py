"""What the references of our own share: a gated MLP, and a stack of layers with an output matrix over it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false, reportUntypedBaseClass=false
from __future__ import annotations

from typing import Any, ClassVar

import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import CausalLMOutput


class GatedMlp(nn.Module):
    """SwiGLU without biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class StackForCausalLM(transformers.PreTrainedModel):
    """Logits of a stack that has `embeddings` and stands under `base_model_prefix`."""

    stack: ClassVar[type[nn.Module]]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.stack(config))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.embeddings  # pyright: ignore[reportReturnType]

    def forward(self, input_ids: Tensor) -> CausalLMOutput:
        """Logits `[B, T, V]`."""
        return CausalLMOutput(logits=self.lm_head(self.base_model(input_ids)))
