"""Builds the module tree of a model: ordinary torch modules whose paths are the checkpoint's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg  # pyright: ignore[reportUnknownVariableType]

from ..compiler.ir import Call, TypedDefinition
from ..compiler.lowered import Lowered
from ..compiler.ops.declaration import Value
from ..compiler.training import TrainedDefinition, Training
from .leaves import make_leaf

Lookup = Callable[[str], object]


class Scope(nn.Module):
    """A container: the modules of one inlined block, or one level of a dotted name."""


class Block(nn.Module):
    """One instance of a repeated block. Instances of a definition share one graph, run over each one's leaves."""

    def __init__(self, lowered: Lowered, scalars: Mapping[str, Value], lookup: Lookup) -> None:
        super().__init__()
        self.graph = TrainGraph(lowered)
        self.scalars = dict(scalars)
        self.lookup = lookup

    def forward(self, *operands: Tensor) -> tuple[Tensor, ...]:
        """The definition's inputs and ambient tensors, in order -> its outputs, in order."""
        return self.graph.run(operands, self.scalars, self.lookup)


class TrainGraph:
    """Runs the `train` form of a definition node by node; values are dropped after their last reader."""

    def __init__(self, lowered: Lowered) -> None:
        self.lowered = lowered
        self.nodes: list[fx.Node] = list(lowered.graph.nodes)
        last_reader: dict[fx.Node, fx.Node] = {}
        for node in self.nodes:
            for source in node.all_input_nodes:
                last_reader[source] = node
        self.dropped_after: dict[fx.Node, list[fx.Node]] = {}
        for source, reader in last_reader.items():
            self.dropped_after.setdefault(reader, []).append(source)

    def __deepcopy__(self, _memo: object) -> TrainGraph:
        return self

    def run(self, operands: Sequence[object], scalars: Mapping[str, Value], lookup: Lookup) -> tuple[Tensor, ...]:
        """Positional operands are inputs and ambient tensors; `lookup` finds the module or parameter at a path."""
        names = (*self.lowered.inputs, *self.lowered.ambient)
        given: dict[str, object] = {**dict(zip(names, operands, strict=True)), **scalars}
        values: dict[fx.Node, object] = {}
        for node in self.nodes:
            args = cast("tuple[Any, ...]", map_arg(node.args, lambda n: cast("Any", values[n])))
            kwargs = cast("dict[str, Any]", map_arg(node.kwargs, lambda n: cast("Any", values[n])))
            match node.op:
                case "placeholder":
                    values[node] = given[str(node.target)]
                case "call_function":
                    function = cast("Callable[..., object]", node.target)
                    values[node] = function(*args, **kwargs)
                case "call_module":
                    module = cast("Callable[..., object]", lookup(str(node.target)))
                    values[node] = module(*args, **kwargs)
                case "get_attr":
                    values[node] = lookup(str(node.target))
                case _:
                    return cast("tuple[Tensor, ...]", args[0])
            for spent in self.dropped_after.get(node, ()):
                values.pop(spent, None)
        raise AssertionError("a graph ends in its output")


def find(root: nn.Module, path: str) -> object:
    """The module or parameter at a dotted path."""
    return reduce(getattr, path.split(".") if path else (), root)


def assign(root: nn.Module, path: str, parameter: nn.Parameter) -> None:
    """Put a parameter at a dotted path whose owner is there."""
    owner_path, _, name = path.rpartition(".")
    owner = find(root, owner_path)
    assert isinstance(owner, nn.Module)
    owner.register_parameter(name, parameter)


def grow(root: nn.Module, training: Training) -> dict[str, TrainGraph]:
    """Add every leaf and block of the model under `root`, on the meta device. Returns the graphs of unrepeated
    definitions."""
    typed = training.module.model.definitions
    with torch.device("meta"):
        for call in training.module.calls:
            _grow_call(root, call, typed[call.definition], training.definitions[call.definition])
    _list_numbered_children(root)
    graphs = {name: one.lowered for name, one in training.definitions.items()}
    return {name: TrainGraph(lowered) for name, lowered in graphs.items() if not lowered.is_repeated}


def _grow_call(root: nn.Module, call: Call, typed: TypedDefinition, trained: TrainedDefinition) -> None:
    lowered = trained.lowered
    if lowered.is_repeated:
        block = Block(lowered, scalar_operands(lowered, call), partial(find_bound, root, call))
        _add(root, call.binding.prefix, block)
    for node in typed.definition.nodes:
        path = call.binding.absolute(node.path)
        specs = typed.parameters[node.path]
        if any(spec.name == "" for spec in specs):
            parent, _, name = path.rpartition(".")
            owner = _scope(root, parent)
            if name not in own_parameters(owner):
                owner.register_parameter(
                    name, nn.Parameter(torch.empty(specs[0].shape), requires_grad=specs[0].is_trained)
                )
        elif specs or node.op.reads_training:
            _add(root, path, make_leaf(node.op, node.fields, specs, trained.leaves.get(node.path)))


def scalar_operands(lowered: Lowered, call: Call) -> dict[str, Value]:
    """The scalars of one instance by placeholder."""
    return {name: call.binding.scalars[key] for name, key in lowered.scalars.items()}


def find_bound(root: nn.Module, call: Call, path: str) -> object:
    """The module or parameter at a path of one call's definition."""
    return find(root, call.binding.absolute(path))


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the module itself, not of its children."""
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


def _child(module: nn.Module, name: str) -> nn.Module | None:
    return dict(module.named_children()).get(name)


def _scope(root: nn.Module, path: str) -> nn.Module:
    """The container at a path; missing levels are made."""
    found = root
    for part in path.split(".") if path else ():
        child = _child(found, part)
        if child is None:
            child = Scope()
            found.add_module(part, child)
        found = child
    return found


def _add(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path. A scope that is there already gives it its content; a leaf that is there is shared and
    stays."""
    parent_path, _, name = path.rpartition(".")
    parent = _scope(root, parent_path)
    existing = _child(parent, name)
    if existing is None:
        parent.add_module(name, module)
    elif isinstance(existing, Scope):
        for child_name, child in existing.named_children():
            module.add_module(child_name, child)
        for parameter_name, parameter in own_parameters(existing).items():
            module.register_parameter(parameter_name, parameter)
        setattr(parent, name, module)


def _list_numbered_children(module: nn.Module) -> None:
    """Scopes whose children are 0, 1, 2 … become ModuleLists."""
    for name, child in list(module.named_children()):
        _list_numbered_children(child)
        inner = dict(child.named_children())
        is_list = bool(inner) and list(inner) == [str(i) for i in range(len(inner))]
        if isinstance(child, Scope) and is_list and not own_parameters(child):
            setattr(module, name, nn.ModuleList(inner.values()))
