"""The Program: the fused model with a kernel for every node, ready to be bound to weights and states."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from torch import fx

from ..kernels.kernel import Phase
from ..specs.diagnostics import fail, quoted
from .forced import KEY as FORCED
from .forced import force_kernels, named, wishes_of
from .ir import Model
from .lower import lower
from .lowered import Module, identifier
from .native.formats import Formats, Quantize, choose_formats, rules_of
from .native.source import NativeProgram, write_program
from .native.split import split_refused
from .ops.declaration import StateSpec
from .passes import GPU_PASSES, PASSES, Pass
from .passes.fuse_norm_linear import fuse_norm_linear, fuse_norm_packed
from .phases import PhaseObserver, phase
from .places import Places
from .plan import Plan, model_states, plan
from .select import Choice, Selection, Target, request_of, select
from .spec import Spec
from .training import Training, lower_modules, requests_in, select_for_training
from .verify import verify
from .weight_map import WeightMap, weight_map

PHASES: tuple[Phase, ...] = ("prefill", "decode")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A compiled model without weights. `module.calls` run in order, each what `selections[phase]` has for it."""

    spec: Spec
    model: Model
    weights: WeightMap
    module: Module
    selections: Mapping[Phase, Mapping[str, Selection]]
    target: Target
    plan: Plan
    ops_before: int
    ops_after: int
    rewrites: Mapping[str, int] = field(default_factory=dict[str, int])
    native: NativeProgram | None = None
    """The program as C, where the target is a CPU and machine code is not switched off."""

    @cached_property
    def training(self) -> Training:
        """The modules that one trains, with a kernel for each node: made when it is asked for."""
        module = lower_modules(self.model, self.target.device, rewrites=passes_are_on())
        return select_for_training(module, self.target, wishes_of(self.spec.document.root.get(FORCED)))

    @property
    def kernels(self) -> Mapping[Phase, Mapping[str, tuple[Choice, ...]]]:
        """By phase and definition, the kernel of every node with the reasons against the others."""
        return {
            phase: {name: self._choices(name, selection) for name, selection in selections.items()}
            for phase, selections in self.selections.items()
        }

    def packable(self) -> Program:
        """The same with each matrix in a linear layer of its own, where kernels of packed weights find it."""
        if not self.target.device.startswith("cuda") or not self.rewrites.get(fuse_norm_linear.__name__):
            return self
        passes = [one for one in (*PASSES, *GPU_PASSES) if one is not fuse_norm_linear]
        target = self.target
        return compile_model(self.spec, self.model, device=target.device, dtype=target.dtype, passes=passes)

    def packed(self, formats: Formats) -> Program:
        """The same for a GPU on packed weights, norms taken into ternary ones: its module is changed.

        Raises E0861 where a matrix has no kernel for its format.
        """
        if passes_are_on():
            fuse_norm_packed(self.module, formats)
        selections: dict[Phase, Mapping[str, Selection]] = {
            name: select(self.module, name, self.target, formats) for name in PHASES
        }
        for phase_name, by_definition in selections.items():
            for definition, wanted in formats.items():
                for placeholder in wanted.keys() - by_definition[definition].prepared.keys():
                    reason = f"{placeholder} of {definition} has no {wanted[placeholder]} kernel in {phase_name}"
                    raise fail("E0861", f"{self.spec.name} cannot be packed: {reason}", help="load it without quantize")
        return replace(self, selections=selections)

    def quantized(self, quantize: Quantize) -> Program:
        """The same on packed weights, as `load` packs them. That of a GPU has a changed module.

        Raises E0860 for rules of the spec that disagree, E0861 where a GPU has no kernel for a format.
        """
        program = self.packable()
        formats = choose_formats(program.module, quantize, rules_of(program.spec))
        if program.native is None:
            return program.packed(formats) if program.target.device.startswith("cuda") else program
        code = write_program(program.module, program.target.dtype, program.spec.document.path, formats)
        return replace(program, native=code)

    def _choices(self, definition: str, selection: Selection) -> tuple[Choice, ...]:
        """Machine code runs the whole of a definition, or nothing of it: then the nodes that it could not run say why,
        and the others say for whose sake they are there."""
        if self.native is None:
            return selection.choices
        if definition in self.native.definitions:
            plain = self.native.unpacked.get(definition, {}).values()
            refused = {path: (("native, packed", reason),) for path, reason in plain}
            return tuple(
                replace(choice, kernel="native", refused=refused.get(choice.path, ())) for choice in selection.choices
            )
        found = self.native.refused[definition]
        own = self.native.refused_nodes[definition]
        return tuple(
            replace(choice, refused=(("native", own.get(choice.path, str(found))), *choice.refused))
            for choice in selection.choices
        )

    @property
    def states(self) -> Mapping[str, StateSpec]:
        """What is kept between tokens, by the path of the node that owns it."""
        return dict(model_states(self.model))

    @cached_property
    def graph_module(self) -> fx.GraphModule:
        """The whole program as one graph that calls each definition: for reading, counting and drawing."""
        return _compose(self.module, self.selections["prefill"])


def passes_are_on() -> bool:
    """False where `LLMC_PASSES=0`: the program then runs the ops as the spec has them."""
    return _is_on("LLMC_PASSES")


def kernels_are_on() -> bool:
    """False where `LLMC_KERNELS=0`: every node then runs its reference."""
    return _is_on("LLMC_KERNELS")


def native_is_on() -> bool:
    """False where `LLMC_NATIVE=0` or `LLMC_KERNELS=0`: torch then runs the program on a CPU as well."""
    return kernels_are_on() and _is_on("LLMC_NATIVE")


def _is_on(switch: str) -> bool:
    """Whether an environment variable leaves a part of llmc on. Raises E0905 for what is neither 0 nor 1."""
    value = os.environ.get(switch) or "1"
    if value not in ("0", "1"):
        raise fail("E0905", f"{switch} is {quoted(value)}", help=f"{switch}=0 switches it off; 1, or no {switch}, on")
    return value == "1"


def compile_model(
    spec: Spec,
    model: Model,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    passes: Sequence[Pass] | None = None,
    on_phase: PhaseObserver | None = None,
) -> Program:
    """Lower, rewrite and select. Each pass is followed by the verifier. `passes` replaces the usual ones."""
    with phase("weight map", on_phase):
        weights = weight_map(spec, model)
    with phase("lower", on_phase):
        module = lower(model)
        module.named = named(spec.document.root.get(FORCED))
        verify(module, "lower")
    before = module.count_ops()
    rewrites: dict[str, int] = {}
    all_passes = (*PASSES, *GPU_PASSES) if device.startswith("cuda") else PASSES
    usual = all_passes if passes_are_on() else ()
    for rewrite in usual if passes is None else passes:
        with phase(rewrite.__name__, on_phase):
            rewrites[rewrite.__name__] = rewrite(module)
            verify(module, rewrite.__name__)
    target = Target(device=device, dtype=dtype, use_kernels=kernels_are_on())
    with phase("x-kernels", on_phase):
        force_kernels(
            module,
            spec.document.root.get(FORCED),
            lambda node, site: tuple(request_of(node, site, name, target) for name in PHASES),
            lambda: requests_in(lower_modules(model, device, rewrites=passes_are_on()), target),
        )
    native = None
    if device == "cpu" and native_is_on():
        with phase("machine code", on_phase):
            native = _native(module, dtype, spec.document.path)
    with phase("select", on_phase):
        selections: dict[Phase, Mapping[str, Selection]] = {name: select(module, name, target) for name in PHASES}
    with phase("plan", on_phase):
        length = spec.environment.get("max_seq_len")
        context = length if isinstance(length, int) else 2048
        sizes = plan(model, weights.ties, context=context, dtype=dtype)
    return Program(
        spec=spec,
        model=model,
        weights=weights,
        module=module,
        selections=selections,
        target=target,
        plan=sizes,
        ops_before=before,
        ops_after=module.count_ops(),
        rewrites=rewrites,
        native=native,
    )


def _native(module: Module, dtype: str, document: Path) -> NativeProgram:
    """The program as C. Definitions that only a part of has code are cut into parts first."""
    native = write_program(module, dtype, document)
    if native.refused and split_refused(module, dtype, Places(document)):
        verify(module, "split_refused")
        native = write_program(module, dtype, document)
    return native


def _compose(module: Module, selections: Mapping[str, Selection]) -> fx.GraphModule:
    """One graph whose nodes are the calls; parameters, states and scalars are placeholders, named by paths."""
    graph = fx.Graph()
    values: dict[str, fx.Node] = {port.name: graph.placeholder(identifier(port.name)) for port in module.model.inputs}
    ambient: dict[str, fx.Node] = {}
    operands: dict[str, fx.Node] = {}
    for call in module.calls:
        lowered = module.definitions[call.definition]
        for name in lowered.ambient:
            if name not in ambient:
                ambient[name] = graph.placeholder(name)
        for name in (*lowered.parameters, *lowered.states, *lowered.scalars):
            key = f"{call.binding.prefix}.{name}" if call.binding.prefix else name
            if key not in operands:
                operands[key] = graph.placeholder(identifier(key))
    next_states: dict[str, fx.Node] = {}
    for call in module.calls:
        lowered = module.definitions[call.definition]
        args: list[object] = []
        for value in call.inputs.values():
            args.append([values[v] for v in value] if isinstance(value, tuple) else values[value])
        args += [ambient[name] for name in lowered.ambient]
        for name in (*lowered.parameters, *lowered.states, *lowered.scalars):
            args.append(operands[f"{call.binding.prefix}.{name}" if call.binding.prefix else name])
        node = graph.call_module(call.definition, tuple(args))  # pyright: ignore[reportArgumentType]
        node._rename(identifier(call.binding.prefix or call.definition))  # pyright: ignore[reportPrivateUsage]
        import operator

        for index, value in enumerate(call.outputs.values()):
            values[value] = graph.call_function(operator.getitem, (node, index))
        for index, name in enumerate(lowered.states):
            key = f"{call.binding.prefix}.{name}" if call.binding.prefix else name
            operands[key] = graph.call_function(operator.getitem, (node, len(lowered.outputs) + index))
            next_states[key] = operands[key]
    graph.output(({name: values[value] for name, value in module.outputs.items()}, tuple(next_states.values())))
    return fx.GraphModule({name: selection.module for name, selection in selections.items()}, graph)
