"""Finds the linear layer that makes the logits, so that a loss may take it over and the logits are never whole.

rewrite: logits = softcap(scale(linear(hidden)))  ->  hidden, and what is left: `linear_cross_entropy(hidden, weight)`
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from torch import fx

from ..kernels.kernel import Request
from .lowered import Lowered, Module, Site, set_results, site_of
from .ops.declaration import Fields, TensorType
from .ops.linear_cross_entropy import LINEAR_CROSS_ENTROPY
from .select import Target

LOGITS = "logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossHead:
    """The last definition of a model up to the hidden states, and the loss that is made of those and of the weight
    `[V, M]` of the leaf at the site's path."""

    lowered: Lowered
    """Gives hidden states `[B, T, M]` in the place of logits."""
    site: Site
    factor: float
    """Multiplies the logits, so the hidden states may be multiplied by it."""
    width: int
    vocab_size: int

    def request(self, target: Target) -> Request:
        """What the loss asks of a kernel."""
        tokens = ("B", "T")
        return Request(
            op=self.site.op.name,
            fields=self.site.fields.values,
            shapes={"hidden": (*tokens, self.width), "weight": (self.vocab_size, self.width), "target": tokens},
            dtype=target.dtype,
            device=target.device,
            phase="train",
        )


def find_loss_head(module: Module) -> LossHead | None:
    """None where the output `logits` is made in another way, or is not the last call's."""
    call = module.calls[-1]
    lowered = module.definitions[call.definition]
    port = next((port for port, name in call.outputs.items() if name == module.outputs.get(LOGITS)), None)
    if port is None or lowered.is_repeated or len(module.calls_of(call.definition)) > 1:
        return None
    short = _copied(lowered)
    place = short.outputs.index(port)
    found = _linear_before(short.results[place])
    if found is None:
        return None
    spent, softcap, factor = found
    hidden, site = _input(spent[-1]), site_of(spent[-1])
    set_results(short, [hidden if at == place else one for at, one in enumerate(short.results)])
    for node in spent:
        short.graph.erase_node(node)
    loss = Site(
        path=site.path,
        op=LINEAR_CROSS_ENTROPY,
        fields=Fields({"softcap": softcap}),
        types={"out": TensorType(shape=(), dtype="float32")},
        span=site.span,
    )
    width = cast("TensorType", hidden.meta["type"]).features
    assert isinstance(width, int)
    return LossHead(lowered=short, site=loss, factor=factor, width=width, vocab_size=site.fields.int("features"))


def _copied(lowered: Lowered) -> Lowered:
    graph, mapped = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in lowered.graph.nodes:
        mapped[node] = graph.node_copy(node, lambda one: mapped[one])
    return replace(lowered, graph=graph)


def _linear_before(last: fx.Node) -> tuple[list[fx.Node], float | None, float] | None:
    """The nodes from `last` back to a linear layer without bias that nothing else reads, with cap and factor."""
    spent: list[fx.Node] = []
    softcap, factor = None, 1.0
    while len(last.users) == 1 and "site" in last.meta:
        spent.append(last)
        site = site_of(last)
        name, fields = site.op.name, site.fields
        if name == "linear":
            return (spent, softcap, factor) if last.op == "call_module" and not fields.values.get("bias") else None
        if name == "softcap" and len(spent) == 1:
            softcap = fields.float("cap")
        elif name == "scale" and fields["offset"] == 0.0 and not isinstance(last.kwargs["factor"], fx.Node):
            factor *= fields.float("factor")
        else:
            return None
        last = _input(last)
    return None


def _input(node: fx.Node) -> fx.Node:
    """The value at the port `x`, which a module takes without its name."""
    return cast("fx.Node", node.kwargs["x"] if "x" in node.kwargs else node.args[0])
