"""Resolves the references written in one block to values: `in:`, ports, `node:port`, and `else:` of removed nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..specs.diagnostics import LlmcError, Note, did_you_mean, fail, quoted
from ..specs.source import Span, YamlScalar
from .axes import AMBIENT
from .fields import Environment, evaluate_scalar, show_value
from .ir import AMBIENT_NODE, Ref
from .names import AMBIENT_NAMES
from .ops.declaration import Op, Port
from .spec import BlockSpec, NodeSpec, Text

Bound: TypeAlias = "Ref | tuple[Ref, ...] | None"
"""What a port is: one value, one value per layer, or unknown because of a mistake that was reported."""

Binds: TypeAlias = Mapping[str, Bound]
Wired: TypeAlias = dict[str, "Ref | tuple[Ref, ...]"]


class UnknownValueError(Exception):
    """A value that a reported mistake left unknown: whatever reads it is passed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """What the references of one block mean, at one place of the expansion."""

    block: BlockSpec
    inputs: Binds
    values: Mapping[str, Binds | None]
    """Output ports of the nodes so far; None for a node with a mistake."""
    removed: Mapping[str, NodeSpec]
    environment: Environment

    def read(self, reference: Text, environment: Environment | None = None) -> Ref | tuple[Ref, ...]:
        """The value that a reference names. Raises LlmcError, or UnknownValueError below a mistake."""
        name, port, reference = self._target(reference, environment)
        outputs = self._outputs(name, reference)
        if not port and (len(outputs) == 1 or "out" in outputs):
            found = outputs["out"] if "out" in outputs else next(iter(outputs.values()))
        elif not port:
            raise fail(
                "E0304",
                f"{quoted(name)} has {len(outputs)} outputs",
                reference.span,
                help="name one: " + ", ".join(f"{name}:{p}" for p in outputs) if outputs else "give it an output",
            )
        elif port in outputs:
            found = outputs[port]
        else:
            raise fail(
                "E0304",
                f"{quoted(name)} has no output {quoted(port)}",
                reference.span,
                help=did_you_mean(port, outputs) or f"leave :{port} out",
            )
        if found is None:
            raise UnknownValueError
        return found

    def _target(self, reference: Text, environment: Environment | None) -> tuple[str, str, Text]:
        """Node and port that a reference names, and where; removed nodes are replaced by their `else:`."""
        passed: list[str] = []
        while True:
            scalar = YamlScalar(value=reference.text, span=reference.span)
            text = evaluate_scalar(scalar, environment or self.environment, is_text=True)
            if not isinstance(text, str):
                remedy = "let the expression give the name of a node, as text"
                raise fail("E0207", f"a reference must be a name, not {show_value(text)}", reference.span, help=remedy)
            name, colon, port = text.partition(":")
            if colon and not port:
                raise fail("E0304", f"{quoted(text)} names no output", reference.span, help="write NODE or NODE:OUTPUT")
            if name not in self.removed:
                return name, port, reference
            removed = self.removed[name]
            if removed.orelse is None:
                raise fail(
                    "E0509",
                    f"{quoted(name)} is removed by its when:, but read here",
                    reference.span,
                    notes=(Note(text="removed here", span=removed.span),),
                    help=f"give {name} an else: to read instead, or a when: to this reader",
                )
            if name in passed:
                raise fail("E0501", f"the else: of {quoted(name)} comes back to itself", removed.orelse.span,
                           help="name a node that is there")  # fmt: skip
            passed.append(name)
            reference = removed.orelse

    def _outputs(self, name: str, reference: Text) -> Binds:
        if name in self.inputs:
            return {"out": self.inputs[name]}
        if name in AMBIENT:
            return {"out": Ref(AMBIENT_NODE, name)}
        if name in self.values:
            outputs = self.values[name]
            if outputs is None:
                raise UnknownValueError
            return outputs
        if name in self.block.nodes:
            raise fail(
                "E0303",
                f"{quoted(name)} may stand after what reads it",
                reference.span,
                help="name nodes as quoted text in an expression, so that their order can be seen",
            )
        if name in AMBIENT_NAMES:
            remedy = "no node can read it: which tokens are padding is known by position"
        else:
            remedy = (
                did_you_mean(name, {*self.block.nodes, *self.inputs}) or "a block sees its inputs and its own nodes"
            )
        raise fail("E0303", f"there is no {quoted(name)} here", reference.span, help=remedy)

    def wire(self, node: NodeSpec, op: Op, *, given: tuple[str, ...] = ()) -> Wired:
        """The inputs of an op node by port, without those that are `given` from elsewhere."""
        wired: Wired = {}
        is_broken = False
        for port, references in _by_port(node, op).items():
            try:
                wired[port.name] = self._several(references) if port.is_variadic else self._single(references[0])
            except UnknownValueError:
                is_broken = True
        for name in given:
            if name in wired:
                span = node.inputs[name][0].span if name in node.inputs else node.span
                message = f"the input {name!r} comes from cache:, so it cannot be given here"
                raise fail("E0307", message, span, help="remove it, or remove cache:")
        if is_broken:
            raise UnknownValueError
        for port in op.ports:
            value = wired.get(port.name)
            if value == ():
                raise fail("E0506", f"op {op.name} gets no value at all: what it reads is repeated 0 times", node.span,
                           help="repeat it at least once, or give this node a when:")  # fmt: skip
            if value is None and not port.is_optional and port.name not in given:
                raise _missing(node, op, port)
        for name in op.ambient:
            wired[name] = Ref(AMBIENT_NODE, name)
        return wired

    def _several(self, references: tuple[Text, ...]) -> tuple[Ref, ...]:
        parts = [self.read(reference) for reference in references]
        return tuple(ref for part in parts for ref in (part if isinstance(part, tuple) else (part,)))

    def _single(self, reference: Text) -> Ref:
        value = self.read(reference)
        if isinstance(value, tuple):
            raise fail(
                "E0506",
                f"{quoted(reference.text)} is one value per layer, but this input takes a single one",
                reference.span,
                help="carry it through the block's in: and out: under one name, or join it by op: concat",
            )
        return value

    def wire_block(self, node: NodeSpec, block: BlockSpec, environment: Environment) -> dict[str, Bound]:
        """The inputs of a block use by port; None for one that a reported mistake left unknown."""
        ports = [port.text for port in block.inputs]
        if len(node.positional) > len(ports):
            raise fail(
                "E0307",
                f"block {block.name!r} takes {len(ports)} input{'s' * (len(ports) != 1)}, not {len(node.positional)}",
                node.positional[len(ports)].span,
                help="its inputs are: " + ", ".join(ports) if ports else "remove in:",
            )
        references = dict(zip(ports, node.positional, strict=False))
        for name, texts in node.inputs.items():
            span = texts[0].span if texts else node.span
            if name not in ports:
                remedy = did_you_mean(name, ports) or "declare it under the block's in:"
                raise fail("E0304", f"block {block.name!r} has no input {quoted(name)}", span, help=remedy)
            references[name] = _only(name, texts, node.span)
        missing = [port for port in ports if port not in references]
        if missing:
            raise fail(
                "E0308",
                f"block {block.name!r} needs its input {missing[0]!r}",
                node.span,
                notes=(Note(text="declared here", span=block.span),),
                help=f"write in: NAME, or in: {{{missing[0]}: NAME}}" if len(ports) > 1 else "write in: NAME",
            )
        return {port: self._read_or_unknown(references[port], environment) for port in ports}

    def _read_or_unknown(self, reference: Text, environment: Environment) -> Bound:
        try:
            return self.read(reference, environment)
        except UnknownValueError:
            return None


def _by_port(node: NodeSpec, op: Op) -> dict[Port, tuple[Text, ...]]:
    """The references written for each port."""
    found: dict[Port, tuple[Text, ...]] = {}
    if node.positional and op.ports and op.ports[0].is_variadic:
        found[op.ports[0]] = node.positional
    elif len(node.positional) > len(op.ports):
        raise fail(
            "E0307",
            f"op {op.name} takes {len(op.ports)} input{'s' * (len(op.ports) != 1)}, not {len(node.positional)}",
            node.positional[len(op.ports)].span,
            help="its inputs are: " + ", ".join(p.name for p in op.ports) if op.ports else "remove in:",
        )
    else:
        found.update((port, (text,)) for port, text in zip(op.ports, node.positional, strict=False))
    for name, references in node.inputs.items():
        span = references[0].span if references else node.span
        port = op.port(name)
        if port is None:
            remedy = did_you_mean(name, [p.name for p in op.ports]) or f"op {op.name} takes no inputs"
            raise fail("E0304", f"op {op.name} has no input {quoted(name)}", span, help=remedy)
        if port in found:
            raise fail("E0307", f"the input {name!r} is given twice", span, help="keep one of the two")
        found[port] = references if port.is_variadic else (_only(name, references, node.span),)
    return found


def _only(name: str, references: tuple[Text, ...], span: Span) -> Text:
    if len(references) != 1:
        place = references[1].span if references else span
        message = f"the input {name!r} takes one value, not {len(references)}"
        raise fail("E0307", message, place, help=f"write {name}: NAME")
    return references[0]


def _missing(node: NodeSpec, op: Op, port: Port) -> LlmcError:
    required = [p.name for p in op.ports if not p.is_optional]
    remedy = "write in: NAME" if len(required) == 1 else f"write {port.name}: NAME, or in: [{', '.join(required)}]"
    return fail("E0308", f"op {op.name} needs its input {port.name!r}, {port.doc}", node.span, help=remedy)
