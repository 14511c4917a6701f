"""The module view, compiled: the `train` form of every definition; for a GPU, with a kernel for each node.

A leaf is never fused away. Its kernel runs inside the leaf's own forward, so that adapters, hooks and sharding of a
leaf take effect, and a module that somebody puts in its place computes what it likes. Rewrites touch only nodes that
own nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import fx

from ..kernels.gpu.autocast import cast_products
from ..kernels.kernel import Kernel, Request
from ..kernels.registry import kernels_for
from .ir import Model
from .loss_head import LossHead, find_loss_head
from .lower import lower_for_training
from .lowered import Lowered, Module, Site, names, site_of
from .passes.fuse_gated_activation import fuse_gated_activation
from .passes.share_mask_plans import share_mask_plans
from .passes.share_rope_table import share_rope_table
from .select import Choice, Target, choose, implementation, request_of
from .verify import verify

PASSES = (fuse_gated_activation, share_rope_table, share_mask_plans)
"""The exact rewrites whose fused form has a kernel with gradients, on a GPU."""
ON_A_CPU = "on a CPU modules run the references"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedDefinition:
    """A definition as its instances run it."""

    lowered: Lowered
    """Its functions are kernels where any serves."""
    leaves: Mapping[str, Callable[..., object]] = field(default_factory=dict[str, Callable[..., object]])
    """By path, what a leaf computes where a kernel serves it."""
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedLoss:
    """The loss of next tokens with the layer that makes their logits, and what computes it."""

    head: LossHead
    compute: Callable[..., object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """All of them, and the calls that run them in order."""

    module: Module
    definitions: Mapping[str, TrainedDefinition]
    loss: TrainedLoss | None
    """Where the logits come of a linear layer without bias, at most scaled and capped."""

    @property
    def kernels(self) -> Mapping[str, tuple[Choice, ...]]:
        """By definition, the kernel of every node with the reasons against the others."""
        return {name: found.choices for name, found in self.definitions.items()}


def lower_modules(model: Model, device: str, *, rewrites: bool) -> Module:
    """The `train` form of the whole model; with `rewrites` and on a GPU, rewritten by `PASSES`."""
    definitions = {name: lower_for_training(typed) for name, typed in model.definitions.items()}
    module = Module(model=model, definitions=definitions, calls=list(model.calls), outputs=dict(model.outputs))
    if rewrites and device.startswith("cuda"):
        for rewrite in PASSES:
            rewrite(module)
            verify(module, f"{rewrite.__name__} in training")
    return module


def select_for_training(module: Module, target: Target, wishes: Mapping[str, str]) -> Training:
    """Ask the kernels of each node, the preferred one first. `wishes`: a kernel by op or path, from `x-kernels`.

    The graphs of `module` are changed.
    """
    found: dict[str, TrainedDefinition] = {}
    for name, lowered in module.definitions.items():
        leaves: dict[str, Callable[..., object]] = {}
        choices: list[Choice] = []
        for node, site, request in requests_of(module, name, target):
            serving, choice = _choose(site, request, target, wishes)
            choices.append(choice)
            if serving and node.op == "call_module":
                leaves[site.path] = _trained(site, serving)
            elif serving:
                node.target = _trained(site, serving)
        found[name] = TrainedDefinition(lowered=lowered, leaves=leaves, choices=tuple(choices))
    head = find_loss_head(module)
    if head is None:
        return Training(module=module, definitions=found, loss=None)
    serving, choice = _choose(head.site, head.request(target), target, wishes)
    last = found[head.lowered.name]
    found[head.lowered.name] = replace(last, choices=(*last.choices, choice))
    loss = TrainedLoss(head=head, compute=_trained(head.site, serving))
    return Training(module=module, definitions=found, loss=loss)


def requests_in(module: Module, target: Target) -> list[tuple[Site, Request]]:
    """What all nodes ask of a kernel, and the loss."""
    found = [(site, request) for name in module.definitions for _, site, request in requests_of(module, name, target)]
    head = find_loss_head(module)
    return found if head is None else [*found, (head.site, head.request(target))]


def requests_of(module: Module, definition: str, target: Target) -> Iterator[tuple[fx.Node, Site, Request]]:
    """What every node of a definition asks of a kernel, in order of execution."""
    parameters = module.model.definitions[definition].parameters
    for node in list(module.definitions[definition].graph.nodes):
        if "site" in node.meta:
            site = site_of(node)
            own = {spec.name: spec.shape for spec in parameters.get(site.path, ())}
            yield node, site, request_of(node, site, "train", target, parameters=own)


def _trained(site: Site, serving: tuple[Kernel, ...]) -> Callable[..., object]:
    """What runs the node; torch's own kernels and the references heed autocast by themselves."""
    chosen = implementation(site, serving)
    return cast_products(site.op.name, chosen) if serving and serving[0].is_triton else chosen


def _choose(
    site: Site, request: Request, target: Target, wishes: Mapping[str, str]
) -> tuple[tuple[Kernel, ...], Choice]:
    """The kernels that serve a node, and what there is to say of it."""
    serving: tuple[Kernel, ...] = ()
    refused = tuple((kernel.name, ON_A_CPU) for kernel in kernels_for(site.op.name) if not kernel.format)
    if target.device.startswith("cuda"):
        wished = [kernel for key, kernel in wishes.items() if names(key, site)]
        serving, refused = choose(site, request, use_kernels=target.use_kernels, forced=wished[-1] if wished else None)
    name = serving[0].name if serving else "reference"
    return serving, Choice(path=site.path, op=site.op.name, kernel=name, refused=refused, place=site.span.at_line)
