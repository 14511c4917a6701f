"""Picks a kernel for every node of a phase, and keeps the reason why each other one was refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import cast

from torch import fx

from ..kernels.gpu.set_aside import guarded
from ..kernels.kernel import Kernel, Phase, Request, resolve
from ..kernels.registry import kernels_for, resolve_reference
from .forced import forced_kernel
from .lowered import Lowered, Module, Site, site_of, type_of
from .native.formats import PACKED, UNPACKED, Formats
from .ops.declaration import TensorType


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a program is compiled for. `use_kernels` false takes every reference."""

    device: str = "cpu"
    dtype: str = "float32"
    use_kernels: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The kernel of one node: its name (`reference` where none served), and each refused kernel with its reason."""

    path: str
    op: str
    kernel: str
    refused: tuple[tuple[str, str], ...]
    place: str


@dataclass(frozen=True, slots=True)
class Preparation:
    """The function that makes of a parameter what its kernel reads; with `parts`, the rows of the matrices that stand
    in it, it takes those too; with `is_in_out` it takes that: of a stack, whether its matrices lie input by input.
    Machine code packs the same as `format`, a gate and its up projection as a pair.
    """

    function: str
    parts: tuple[int, ...] | None = None
    format: str = ""
    is_pair: bool = False
    is_in_out: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """One definition for one phase: a graph that calls the chosen kernels."""

    name: str
    graph: fx.Graph
    choices: tuple[Choice, ...]
    prepared: Mapping[str, Preparation]
    """By placeholder of a parameter, how what its kernel reads is made of it."""

    @cached_property
    def module(self) -> fx.GraphModule:
        """The graph as Python, generated on first use: machine code does without it."""
        return fx.GraphModule({}, self.graph, class_name=self.name)


def select(module: Module, phase: Phase, target: Target, formats: Formats = UNPACKED) -> Mapping[str, Selection]:
    """A copy of every definition's graph that calls the chosen kernels; `formats` are those of packed weights."""
    return {
        name: select_definition(lowered, phase, target, formats.get(name, {}))
        for name, lowered in module.definitions.items()
    }


def select_definition(
    lowered: Lowered, phase: Phase, target: Target, formats: Mapping[str, str] = MappingProxyType({})
) -> Selection:
    """Ask the kernels of each op, the preferred one first; `formats` are those of packed weights, by placeholder."""
    graph = fx.Graph()
    mapped: dict[fx.Node, fx.Node] = {}
    choices: list[Choice] = []
    prepared: dict[str, Preparation] = {}
    for node in lowered.graph.nodes:
        copy = graph.node_copy(node, lambda n: mapped[n])
        mapped[node] = copy
        if node.op != "call_function" or "site" not in node.meta:
            continue
        site = site_of(node)
        serving, refused = choose(
            site,
            request_of(node, site, phase, target, _format(node, site, formats)),
            use_kernels=target.use_kernels,
            forced=forced_kernel(node),
            own=_own_parameters(node, lowered),
        )
        if serving:
            prepared |= _preparations(node, site, serving[0])
        copy.target = implementation(site, serving)
        name = serving[0].name if serving else "reference"
        choices.append(Choice(path=site.path, op=site.op.name, kernel=name, refused=refused, place=site.span.at_line))
    return Selection(name=f"{lowered.name}_{phase}", graph=graph, choices=tuple(choices), prepared=prepared)


def _preparations(node: fx.Node, site: Site, kernel: Kernel) -> Mapping[str, Preparation]:
    """What of the node's parameters is to be made, by placeholder."""
    parts = cast("list[int] | None", site.fields.values.get("parts"))
    rows = None if parts is None else tuple(parts)
    is_in_out = site.fields.values.get("layout") == "in_out" if site.op.name == "experts" else None
    return {
        str(node.kwargs[name]): Preparation(function, rows, kernel.packed_as, _is_pair(site, name), is_in_out)
        for name, function in kernel.prepares.items()
        if isinstance(node.kwargs.get(name), fx.Node)
    }


def _is_pair(site: Site, argument: str) -> bool:
    """Whether a matrix is a gate and its up projection, which machine code packs as a pair."""
    if site.op.name == "experts":
        return argument == "gate_up_proj" and site.fields.values.get("packing") == "halves"
    return site.op.name == "gated_linear" or (
        site.op.name in ("rms_norm_linear", "add_rms_norm_linear") and site.fields.values.get("kind") is not None
    )


def _format(node: fx.Node, site: Site, formats: Mapping[str, str]) -> str:
    """The format of a node's matrices; of several all of them, which no kernel takes."""
    arguments = map(node.kwargs.get, PACKED.get(site.op.name, ()))
    found = {formats.get(str(one.target), "") for one in arguments if isinstance(one, fx.Node)}
    return " and ".join(format or "none" for format in sorted(found)) if len(found) > 1 else "".join(found)


def request_of(
    node: fx.Node,
    site: Site,
    phase: Phase,
    target: Target,
    format: str = "",
    *,
    parameters: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> Request:
    """What a kernel needs to know of a node: the `T` of a decode step is 1.

    `parameters`: the shapes of those that are no operands, because a module owns them; the first port of such a node
    has no name.
    """
    operands = {**dict(zip((port.name for port in site.op.ports), node.args, strict=False)), **node.kwargs}
    shapes = {name: value for name, found in operands.items() for value in _shapes(found, phase)} | dict(parameters)
    return Request(
        op=site.op.name,
        fields=site.fields.values,
        shapes=shapes,
        dtype=target.dtype,
        device=target.device,
        phase=phase,
        format=format,
    )


def _shapes(value: object, phase: Phase) -> list[tuple[int | str, ...]]:
    if not isinstance(value, fx.Node):
        return []
    found: TensorType = type_of(value)
    return [tuple(1 if dim == "T" and phase == "decode" else dim for dim in found.shape)]


def _own_parameters(node: fx.Node, lowered: Lowered) -> frozenset[str]:
    """The arguments that are parameters which no other node of the definition reads."""
    return frozenset(
        name
        for name, value in node.kwargs.items()
        if isinstance(value, fx.Node) and value.target in lowered.parameters and len(value.users) == 1
    )


def choose(
    site: Site,
    request: Request,
    *,
    use_kernels: bool,
    forced: str | None = None,
    own: frozenset[str] = frozenset(),
) -> tuple[tuple[Kernel, ...], tuple[tuple[str, str], ...]]:
    """The kernels that serve, the preferred one first, and the refusals before it. None that serves: the reference.

    `forced` comes first where it serves in this phase. `own`: the arguments that a kernel may have prepared; none in
    training, where each step changes them.
    """
    candidates = [kernel for kernel in kernels_for(site.op.name) if kernel.format == request.format]
    serving: list[Kernel] = []
    refused: list[tuple[str, str]] = []
    for kernel in sorted(candidates, key=lambda kernel: kernel.name != forced):
        if not use_kernels:
            reason = "kernels are switched off"
        elif forced == "reference":
            reason = "x-kernels asks for the reference"
        elif request.phase == "train" and kernel.prepares:
            reason = f"no gradients: it reads another form of {min(kernel.prepares)}, made once"
        else:
            shared = sorted((kernel.prepares.keys() & request.shapes.keys()) - own)
            reason = f"its {shared[0]} is not a parameter of this node alone" if shared else kernel.refusal(request)
        if reason is None:
            serving.append(kernel)
        elif not serving:
            refused.append((kernel.name, reason))
    return tuple(serving), tuple(refused)


def implementation(site: Site, serving: tuple[Kernel, ...]) -> Callable[..., object]:
    """The first kernel; where that is compiled on first use, with the others behind it."""
    if not serving:
        return resolve_reference(site.op.reference)
    if not serving[0].is_triton:
        return serving[0].function()
    first = serving[0]
    if first.prepares:
        fallbacks = [(first.name, first.function), ("torch", lambda: resolve(first.plain))]
    else:
        fallbacks = [(kernel.name, kernel.function) for kernel in serving if not kernel.prepares]
        fallbacks.append(("reference", lambda: resolve_reference(site.op.reference)))
    return guarded(f"{site.path} ({site.op.name}, {site.span.at_line})", fallbacks)
