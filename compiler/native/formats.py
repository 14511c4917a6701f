"""Which matrices are packed, and how: one format for all linear layers, and the rules of the spec for some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal, TypeAlias, cast

from torch import fx

from ...specs.diagnostics import fail
from ...specs.source import plain
from ..ir import Call
from ..lowered import Lowered, Module
from ..parameters import leaves
from ..spec import Spec

Quantize: TypeAlias = Literal["int8", "int4", "ternary"]
QUANTIZE: tuple[Quantize, ...] = ("int8", "int4", "ternary")
Formats: TypeAlias = Mapping[str, Mapping[str, str]]
"""By definition and placeholder of a packed parameter, its format."""

UNPACKED: Formats = MappingProxyType({})
PACKED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "linear": ("weight",),
        "gated_linear": ("weight",),
        "rms_norm_linear": ("weight",),
        "add_rms_norm_linear": ("weight",),
        "experts": ("gate_proj", "up_proj", "gate_up_proj", "down_proj"),
    }
)
"""By op, its arguments that are matrices, or stacks of them."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Parameters whose path matches `match` (`*` and `?` as in file names) get `to`, or stay as they are: `none`."""

    match: str
    to: str


def rules_of(spec: Spec) -> tuple[Rule, ...]:
    """The rules under `weights: quantize:`, the first that matches counts."""
    section = None if spec.weights is None else spec.weights.get("quantize")
    listed = cast("list[dict[str, object]]", [] if section is None else plain(section))
    return tuple(Rule(str(item["match"]), str(item["to"])) for item in listed)


def choose_formats(module: Module, quantize: Quantize, rules: Sequence[Rule] = ()) -> Formats:
    """A format for the matrix of every linear layer, and for the stacked ones of experts.

    The head of a ternary model, which gives the model's outputs, is int8. Raises E0860 where rules want two formats in
    layers that share one definition, or for what makes an expert's inner units.
    """
    found: dict[str, dict[str, str]] = {}
    for name, lowered in module.definitions.items():
        for placeholder, is_head in _matrices(lowered, module).items():
            usual = "int8" if quantize == "ternary" and is_head else quantize
            wanted = {
                _format(path, usual, rules)
                for call in module.calls_of(name)
                for path in _paths(call, lowered, placeholder)
            }
            if len(wanted) > 1:
                raise fail(
                    "E0860",
                    f"the rules under weights.quantize give {placeholder} of {name} several formats: "
                    + ", ".join(sorted(wanted)),
                    lowered.span,
                    help="let a rule match the parameter in all layers that are alike, or in none",
                )
            if wanted and "none" not in wanted:
                found.setdefault(name, {})[placeholder] = wanted.pop()
        _require_alike(lowered, found.get(name, {}))
    return found


def _require_alike(lowered: Lowered, formats: Mapping[str, str]) -> None:
    """Raises E0860 where gate and up of experts, which read one input, have two formats."""
    for node, site in lowered.sites():
        inward = [str(one.target) for one in map(node.kwargs.get, ("gate_proj", "up_proj")) if isinstance(one, fx.Node)]
        found = {formats.get(placeholder, "none") for placeholder in inward}
        if site.op.name == "experts" and len(found) > 1:
            raise fail(
                "E0860",
                f"the rules under weights.quantize give {' and '.join(inward)} of {lowered.name} several formats: "
                + ", ".join(sorted(found)),
                site.span,
                help="let a rule match both, or neither",
            )


def _matrices(lowered: Lowered, module: Module) -> dict[str, bool]:
    """The placeholders of matrices, and whether the product is an output of the model."""
    outputs = set(module.outputs.values())
    made = {value for call in module.calls_of(lowered.name) for value in call.outputs.values()}
    found: dict[str, bool] = {}
    for node, site in lowered.sites():
        for weight in map(node.kwargs.get, PACKED.get(site.op.name, ())):
            if isinstance(weight, fx.Node) and str(weight.target) in lowered.parameters:
                found[str(weight.target)] = node in lowered.results and bool(made & outputs)
    return found


def _paths(call: Call, lowered: Lowered, placeholder: str) -> list[str]:
    parts = leaves(lowered.parameters[placeholder])
    return [f"{call.binding.absolute(part.node)}.{part.name}" for part in parts]


def _format(path: str, usual: str, rules: Sequence[Rule]) -> str:
    return next((rule.to for rule in rules if fnmatchcase(path, rule.match)), usual)
