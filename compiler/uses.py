"""What a use of a block gives it: the block itself, values for its params, its share, and its overrides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..specs.diagnostics import Diagnostic, LlmcError, did_you_mean, fail, quoted
from ..specs.source import Span, YamlEntry, YamlList, YamlMap, YamlScalar
from .fields import Environment, evaluate_node, evaluate_scalar, show_value
from .names import MAX_PATH_LENGTH, check_name
from .ops.declaration import Value
from .overrides import Override, active_overrides, passed_on
from .spec import BlockSpec, NodeSpec, Spec, Text

MAX_DEPTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Where in the expansion a block stands."""

    environment: Environment
    path: str
    """Of the block inside the current body: the prefix of its nodes."""
    share: str | None = None
    own: tuple[Text, ...] = ()
    """Paths inside the share that stay per use."""
    overrides: tuple[Override, ...] = ()
    trail: tuple[Span, ...] = ()
    inside: tuple[str, ...] = ()
    """The blocks around, outermost first."""
    is_top: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What an expansion has come across: whatever is written but not seen at its end reached nothing."""

    visited: set[Span] = field(default_factory=set[Span])
    """Uses of blocks."""
    uses: dict[str, int] = field(default_factory=dict[str, int])
    """Of each share."""
    own: set[Span] = field(default_factory=set[Span])
    held: set[Span] = field(default_factory=set[Span])
    """Overrides whose `at:` held in some layer."""
    overrides: set[Span] = field(default_factory=set[Span])
    """Those that came to a node."""


def use_context(
    spec: Spec,
    node: NodeSpec,
    outer: Context,
    name: str,
    environment: Environment,
    seen: Seen,
) -> tuple[BlockSpec, Context]:
    """The block that a use names, and the context it expands in. Notes what it saw in `seen`."""
    block = block_of(spec, node, environment, outer)
    share, own = outer.share, outer.own
    local = dict(environment)
    if share is not None:
        share = join(share, name)
        own = _own_inside(own, name, seen.own)
    share_node, own_node = node.get("share"), node.get("own")
    if isinstance(share_node, YamlScalar):
        share = _share_name(share_node, environment)
        items = own_node.items if isinstance(own_node, YamlList) else ()
        own = tuple(Text(text=str(i.value), span=i.span) for i in items if isinstance(i, YamlScalar))
        local["use"] = seen.uses.get(share, 0)
        seen.uses[share] = seen.uses.get(share, 0) + 1
    local.update(arguments(node, block, local))
    return block, Context(
        environment=local,
        path=join(outer.path, name),
        share=share,
        own=own,
        overrides=(*passed_on(outer.overrides, node.name), *active_overrides(node, local, seen.held)),
        trail=(*outer.trail, node.span),
        inside=(*outer.inside, block.name),
        is_top=outer.is_top,
    )


def block_of(spec: Spec, node: NodeSpec, environment: Environment, outer: Context) -> BlockSpec:
    """The block that a use names. Raises LlmcError E0305 where there is none, E0502 where it stands around this use."""
    assert node.block is not None
    named = evaluate_scalar(YamlScalar(value=node.block.text, span=node.block.span), environment, is_text=True)
    span, blocks = node.block.span, spec.blocks
    if not isinstance(named, str):
        remedy = "let the expression give the name of a block, as text"
        raise fail("E0207", f"block must be the name of a block, not {show_value(named)}", span, help=remedy)
    if named not in blocks:
        remedy = did_you_mean(named, blocks) or "define it under blocks:"
        raise fail("E0305", f"there is no block {quoted(named)}", span, help=remedy)
    if named in outer.inside:
        chain = " -> ".join((*outer.inside[outer.inside.index(named) :], named))
        message = f"block {named!r} contains itself: {chain}"
        raise fail("E0502", message, span, help="use repeat: for a block that follows itself")
    if len(outer.inside) >= MAX_DEPTH:
        message = f"blocks are used inside one another more than {MAX_DEPTH} deep"
        raise fail("E0502", message, span, help="write some of them into the block that uses them")
    return blocks[named]


def _share_name(node: YamlScalar, environment: Environment) -> str:
    name = evaluate_scalar(node, environment, is_text=True)
    if not isinstance(name, str):
        raise fail("E0207", f"share must be a name, not {show_value(name)}", node.span, help="write share: NAME")
    if (problem := check_name(name, "a share", node.span, is_path=True, max_length=MAX_PATH_LENGTH)) is not None:
        raise LlmcError([problem])
    return name


def arguments(node: NodeSpec, block: BlockSpec, environment: Environment) -> dict[str, Value]:
    """The block's local params: what `with:` says, else their own defaults."""
    given = node.get("with")
    entries: Mapping[str, YamlEntry] = given.entries if isinstance(given, YamlMap) else {}
    for key, entry in entries.items():
        if key not in block.params:
            raise fail(
                "E0433",
                f"block {block.name!r} has no param {quoted(key)}",
                entry.key_span,
                help=did_you_mean(key, block.params) or "declare it under the block's params:",
            )
    values: dict[str, Value] = {}
    for key, default in block.params.items():
        written, known = (entries[key].value, environment) if key in entries else (default, {**environment, **values})
        values[key] = evaluate_node(written, known, is_text=False)
    return values


def is_own(name: str, context: Context, used: set[Span]) -> bool:
    """Whether a node inside a share keeps parameters of its own; notes which `own:` path says so."""
    paths = [path for path in context.own if path.text in (name, "*") or name.startswith(f"{path.text}.")]
    used.update(path.span for path in paths)
    return bool(paths)


def _own_inside(own: tuple[Text, ...], name: str, used: set[Span]) -> tuple[Text, ...]:
    """The `own:` paths that lead into the block used at `name`; `*` where all of it is own."""
    whole = [path for path in own if path.text in (name, "*") or name.startswith(f"{path.text}.")]
    if whole:
        used.update(path.span for path in whole)
        return (Text(text="*", span=whole[0].span),)
    inside = (path for path in own if path.text.startswith(f"{name}."))
    return tuple(Text(text=path.text.removeprefix(f"{name}."), span=path.span) for path in inside)


def unreached_own(spec: Spec, used: set[Span], visited: set[Span]) -> Iterator[Diagnostic]:
    """The `own:` paths of visited uses that name nothing inside the share."""
    for block in (*spec.blocks.values(), spec.graph):
        for node in block.nodes.values():
            own = node.get("own")
            for item in own.items if isinstance(own, YamlList) and node.span in visited else ():
                if isinstance(item, YamlScalar) and item.span not in used:
                    yield Diagnostic(
                        code="E0508",
                        message=f"own names {quoted(str(item.value))}, but no node stands there",
                        span=item.span,
                        help="write the path of a node inside the block, e.g. mlp.adapter",
                    )


def join(prefix: str, name: str) -> str:
    """The path of `name` inside `prefix`."""
    return f"{prefix}.{name}" if prefix else name
