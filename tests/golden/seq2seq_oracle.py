"""The reference of encoder and decoder, called as our model is: the stream first, the encoder's tokens by name."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false
from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import Seq2SeqLMOutput


class T5Decoding(transformers.T5ForConditionalGeneration):
    """The reference, taking its inputs by our names; by its own it is as it was.

    transformers ties the output matrix whatever the config says, unless a checkpoint has two tensors: so has this one
    where the decoder's outputs are not scaled and `has_head` was asked for.
    """

    def __init__(self, config: transformers.T5Config) -> None:
        super().__init__(config)
        if getattr(config, "has_head", False):
            self.lm_head.weight = nn.Parameter(torch.empty_like(self.lm_head.weight))

    def forward(
        self,
        tokens: Tensor | None = None,
        encoder_tokens: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> Seq2SeqLMOutput:
        """Logits of the decoder's `tokens [B, T]` after the encoder's `encoder_tokens [B, S]`."""
        if tokens is None:
            return super().forward(attention_mask=attention_mask, **others)
        return super().forward(
            input_ids=encoder_tokens,  # pyright: ignore[reportArgumentType]
            decoder_input_ids=tokens,  # pyright: ignore[reportArgumentType]
            decoder_attention_mask=attention_mask,  # pyright: ignore[reportArgumentType]
        )
