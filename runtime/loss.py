"""The loss of next tokens: with the head's product where the head is a plain linear layer, else of its logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from ..compiler.loss_head import LOGITS
from ..compiler.program import Program
from ..compiler.training import TrainedLoss
from ..kernels.cross_entropy.reference import Reduction, cross_entropy
from ..specs.diagnostics import fail
from .leaves import Linear
from .outputs import Outputs

IGNORED = -100
"""The target of a token that counts for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What to make of the logits. target `[B, T]` int64, -100 where a token counts for nothing."""

    target: Tensor
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    reduction: Reduction = "mean"

    def of_logits(self, logits: Tensor) -> Tensor:
        """logits `[B, T, V]` -> `[]` float32."""
        return cross_entropy(
            logits=logits.reshape(-1, logits.shape[-1]),
            target=self.target.flatten(),
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            reduction=self.reduction,
        )

    def of_hidden(self, fused: TrainedLoss, hidden: Tensor, weight: Tensor) -> Tensor:
        """The same of the logits that the head makes of hidden states `[B, T, M]` by its weight `[V, M]`."""
        factor = fused.head.factor
        loss = fused.compute(
            hidden=hidden if factor == 1.0 else hidden * factor,
            weight=weight,
            target=self.target,
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            reduction=self.reduction,
            **fused.head.site.fields.values,
        )
        return cast("Tensor", loss)


class GivesLoss(nn.Module):
    """A model whose forward takes a `Loss`."""

    def loss(
        self,
        tokens: Tensor,
        target: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        reduction: Reduction = "mean",
        **named_inputs: Tensor,
    ) -> Tensor | Outputs:
        """Cross entropy of the logits with `target`, `[]` float32: the mean over the tokens that count.

        tokens, target `[B, T]` int64: what each position is to predict, -100 where it counts for nothing; None: the
        next token, where neither is padding. Other outputs are given beside `loss`. Where the head is a plain linear
        layer, the logits `[B, T, V]` are never whole on a GPU. It is `model(tokens, loss=Loss(…))`, so what wraps the
        model's forward takes effect. Raises E0811 where the model has no logits of tokens.
        """
        if target is None:
            target = next_tokens(tokens, attention_mask)
        wanted = Loss(target=target, label_smoothing=label_smoothing, z_loss=z_loss, reduction=reduction)
        return cast("Tensor | Outputs", self(tokens, attention_mask, loss=wanted, **named_inputs))


def next_tokens(tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The target of every token: the one after it, -100 at the end of a row and where either is padding. `[B, T]`."""
    target = nn.functional.pad(tokens[:, 1:], (0, 1), value=IGNORED)
    if attention_mask is None:
        return target
    is_followed = nn.functional.pad(attention_mask[:, 1:] & attention_mask[:, :-1], (0, 1), value=False)
    return target.masked_fill(~is_followed, IGNORED)


def is_plain(head: object) -> bool:
    """Whether nobody wraps, hooks, shards or parametrises the layer, so that its weight says all that it does."""
    if type(head) is not Linear or type(head.weight) is not nn.Parameter:
        return False
    if head.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
        return False
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return not any(vars(head)[kind] for kind in kinds)


def require_logits(program: Program, cache: object) -> None:
    """Raises E0811 where a call cannot give the loss of tokens."""
    name = program.model.outputs.get(LOGITS)
    if cache is not None:
        raise fail("E0811", "a loss is that of whole rows, without a cache", help="leave the cache out")
    if name is None or program.model.types[name].shape[:-1] != ("B", "T"):
        has = ", ".join(program.model.outputs)
        raise fail(
            "E0811", f"{program.spec.name} has no logits of tokens, only {has}", help="make a loss of its outputs"
        )
