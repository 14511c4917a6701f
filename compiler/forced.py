"""What `x-kernels` of a spec asks for: a kernel by name for the nodes of an op, or for one node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from torch import fx

from ..kernels.kernel import Request
from ..kernels.registry import kernels_for
from ..specs.diagnostics import Diagnostic, LlmcError, Note, did_you_mean, quoted
from ..specs.source import Span, YamlMap, YamlNode, YamlScalar
from .lowered import Lowered, Module, Site, names

KEY = "x-kernels"
MARK = "forced"
"""Where an fx node's meta holds the name of its kernel."""


def forced_kernel(node: fx.Node) -> str | None:
    """The kernel that the spec asks for at this node."""
    return cast("str | None", node.meta.get(MARK))


def named(section: YamlNode | None) -> frozenset[str]:
    """The keys of the section: ops and paths."""
    return frozenset(section.entries) if isinstance(section, YamlMap) else frozenset()


def wishes_of(section: YamlNode | None) -> Mapping[str, str]:
    """Kernels by the names of ops and paths, where the section is well formed."""
    return {key: kernel for key, _, kernel, _ in _wishes(section, [])}


def force_kernels(
    module: Module,
    section: YamlNode | None,
    requests: Callable[[fx.Node, Site], tuple[Request, ...]],
    in_training: Callable[[], Sequence[tuple[Site, Request]]] = tuple,
) -> None:
    """Mark every node that the section names, by the name of its op or by its path.

    `requests`: what a node asks of a kernel, in each phase; `in_training`: what the nodes of the modules ask. Raises
    LlmcError E0607 for a name that is no op and no path of the fused program or the modules, for a kernel that the op
    does not have, and for one that serves in no phase.
    """
    problems: list[Diagnostic] = []
    trained = in_training() if section is not None else ()
    for key, key_span, kernel, span in _wishes(section, problems):
        nodes = [
            (node, site)
            for lowered in module.definitions.values()
            for node, site in lowered.sites()
            if names(key, site)
        ]
        others = [(site, request) for site, request in trained if names(key, site)]
        if not nodes and not others:
            known = {name for definition in module.definitions.values() for name in _names(definition)}
            known |= {name for site, _ in trained for name in (site.op.name, site.path)}
            message = f"the fused program has neither an op nor a node {quoted(key)}"
            problems.append(_problem(message, key_span, did_you_mean(key, known) or "llmc explain SPEC lists them"))
        refusals = [_refusal(site, kernel, requests(node, site), span) for node, site in nodes]
        for (node, _), problem in zip(nodes, refusals, strict=True):
            if problem is None:
                node.meta[MARK] = kernel
        in_modules = [_refusal(site, kernel, (request,), span) for site, request in others]
        if not (in_modules and all(problem is None for problem in in_modules)):
            problems += [problem for problem in refusals or in_modules if problem is not None][:1]
    if problems:
        raise LlmcError(problems)


def _names(definition: Lowered) -> Iterator[str]:
    for _, site in definition.sites():
        yield from (site.op.name, site.path)


def _wishes(section: YamlNode | None, problems: list[Diagnostic]) -> Iterator[tuple[str, Span, str, Span]]:
    """Key and kernel, each with its place."""
    if section is None:
        return
    if not isinstance(section, YamlMap):
        problems.append(_problem(f"{KEY} is a map", section.span, "write x-kernels: {attend_cached: reference}"))
        return
    for key, entry in section.entries.items():
        if isinstance(entry.value, YamlScalar) and isinstance(entry.value.value, str):
            yield key, entry.key_span, entry.value.value, entry.value.span
        else:
            problems.append(_problem(f"{KEY}: {quoted(key)} takes the name of a kernel", entry.value.span, ""))


def _refusal(site: Site, kernel: str, requests: tuple[Request, ...], span: Span) -> Diagnostic | None:
    if kernel == "reference":
        return None
    found = [one for one in kernels_for(site.op.name) if one.name == kernel]
    if not found:
        known = ["reference", *dict.fromkeys(one.name for one in kernels_for(site.op.name))]
        message = f"{site.op.name} has no kernel {quoted(kernel)}"
        return _problem(message, span, did_you_mean(kernel, known) or f"take one of {', '.join(known)}")
    reasons = {request.phase: one.refusal(request) for one in found for request in requests}
    if None in reasons.values():
        return None
    notes = tuple(Note(text=f"{phase}: {reason}") for phase, reason in reasons.items())
    return _problem(f"{site.path} ({site.op.name}) cannot run on {quoted(kernel)}", span, "", notes)


def _problem(message: str, span: Span, help: str, notes: tuple[Note, ...] = ()) -> Diagnostic:
    return Diagnostic(code="E0607", message=message, span=span, help=help or None, notes=notes)
