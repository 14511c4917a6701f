"""Matches checkpoint tensors with parameters, strictly and both ways: what is read can be written back under the same
names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..compiler.ops.declaration import ParameterSpec
from ..compiler.weight_map import WeightMap, WeightRule
from ..specs.diagnostics import Diagnostic, LlmcError, did_you_mean
from .checkpoint import Checkpoint
from .finiteness import require_finite
from .user_cache import identity, is_noted, note
from .weight_rules import exported, imported, source_names, source_shapes

MAX_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one parameter is read: checkpoint names in order, and the rule that makes one tensor of them (None: as it
    is)."""

    path: str
    spec: ParameterSpec
    sources: tuple[str, ...]
    rule: WeightRule | None
    alternatives: tuple[str, ...] = ()
    """Other names that the same tensor may have in a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """Every parameter with its recipe, and tied names that the checkpoint holds as well."""

    recipes: Mapping[str, Recipe]
    tied_duplicates: Mapping[str, str]


def recipes(weights: WeightMap, names: Iterable[str] | None = None) -> dict[str, Recipe]:
    """A recipe for every parameter that owns its tensor. `names` are the checkpoint's, which may lack the spec's
    prefix."""
    available = None if names is None else set(names)
    found: dict[str, Recipe] = {}
    for path, spec in weights.parameters.items():
        if path in weights.ties:
            continue
        ruled = weights.rule_for(path)
        if ruled is None:
            sources, rule = (path,), None
        else:
            rule, holes = ruled
            sources = source_names(rule, holes, available)
        sources = _with_prefix(sources, weights.prefix, available)
        alternatives: tuple[str, ...] = ()
        if rule is not None and rule.how == "rename" and len(sources) > 1:
            chosen = next((name for name in sources if available is not None and name in available), sources[0])
            sources, alternatives = (chosen,), sources
        found[path] = Recipe(path=path, spec=spec, sources=sources, rule=rule, alternatives=alternatives)
    return found


def _with_prefix(sources: tuple[str, ...], prefix: str, available: set[str] | None) -> tuple[str, ...]:
    """Names without the prefix where the checkpoint has none that begin with it."""
    if not prefix or available is None or any(name.startswith(prefix) for name in available):
        return sources
    return tuple(name.removeprefix(prefix) for name in sources)


def match_checkpoint(weights: WeightMap, checkpoint: Checkpoint) -> Matching:
    """Match names, shapes and dtypes.

    Raises LlmcError with E0703 (missing), E0704 (unexpected), E0705 (shape) and E0706 (dtype), similar ones grouped.
    """
    names = checkpoint.entries.keys()
    found = recipes(weights, names)
    used = {name for recipe in found.values() for name in (*recipe.sources, *recipe.alternatives)}
    duplicates = {
        name: weights.ties[path]
        for path in weights.ties
        for name in _with_prefix((path,), weights.prefix, set(names))
        if name in names
    }
    missing = sorted({s for r in found.values() for s in r.sources if s not in names})
    unexpected = sorted(
        n for n in names if n not in used and n not in duplicates and not weights.is_ignored(n)
        and not weights.is_ignored(weights.prefix + n)
    )  # fmt: skip
    problems = _missing(missing, unexpected) + _unexpected(unexpected, missing, sorted(used))
    problems += _misfits(found.values(), checkpoint)
    if problems:
        raise LlmcError(problems)
    return Matching(recipes=found, tied_duplicates=duplicates)


def _missing(missing: Sequence[str], unexpected: Sequence[str]) -> list[Diagnostic]:
    return [
        Diagnostic(
            code="E0703",
            message=f"the checkpoint lacks {_count(rows)}{label}",
            help=_near(rows[0], unexpected) or "the spec and the checkpoint describe different architectures",
        )
        for label, rows in _grouped(missing)
    ]


def _unexpected(unexpected: Sequence[str], missing: Sequence[str], wanted: Sequence[str]) -> list[Diagnostic]:
    return [
        Diagnostic(
            code="E0704",
            message=f"the checkpoint has {_count(rows)}{label}, which no parameter reads",
            help=_near(rows[0], missing or wanted) or "if it is no parameter, list it under weights: ignore:",
        )
        for label, rows in _grouped(unexpected)
    ]


def _count(rows: Sequence[str]) -> str:
    return "" if len(rows) == 1 else f"{len(rows)} tensors: "


def _near(name: str, others: Sequence[str]) -> str | None:
    hint = did_you_mean(name, others)
    return hint if hint is not None and hint.startswith("did you mean") else None


def _grouped(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Names that differ only in numbers are one row: `model.layers.{0-31}.self_attn.q_proj.weight`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        pattern = ".".join("{}" if part.isdigit() else part for part in name.split("."))
        groups.setdefault(pattern, []).append(name)
    rows: list[tuple[str, list[str]]] = []
    for pattern, members in list(groups.items())[:MAX_ROWS]:
        if len(members) == 1:
            rows.append((repr(members[0]), members))
            continue
        numbers = sorted({int(part) for name in members for part in name.split(".") if part.isdigit()})
        rows.append((repr(pattern.replace("{}", f"{{{numbers[0]}-{numbers[-1]}}}", 1)), members))
    if len(groups) > MAX_ROWS:
        rest = [name for members in list(groups.values())[MAX_ROWS:] for name in members]
        rows.append((f"{rest[0]!r} and others", rest))
    return rows


def _misfits(found: Iterable[Recipe], checkpoint: Checkpoint) -> list[Diagnostic]:
    problems: list[Diagnostic] = []
    for recipe in found:
        expected = source_shapes(recipe.rule, recipe.spec, len(recipe.sources))
        for index, name in enumerate(recipe.sources):
            entry = checkpoint.entries.get(name)
            if entry is None:
                continue
            wanted = expected[index]
            if wanted is not None and entry.shape != wanted:
                flipped = wanted == entry.shape[::-1] and len(wanted) == 2
                problems.append(
                    Diagnostic(
                        code="E0705",
                        message=f"{name} is {list(entry.shape)} in {entry.file_name}, the spec expects {list(wanted)}",
                        help="it is transposed: see the op's layout field"
                        if flipped
                        else "check the params against config.json",
                    )
                )
            if not entry.dtype.is_floating_point or entry.dtype.itemsize < 2:
                problems.append(
                    Diagnostic(
                        code="E0706",
                        message=f"{name} is {str(entry.dtype).removeprefix('torch.')} in {entry.file_name}, "
                        "but weights are floating-point numbers of 16 bits or more",
                        help="quantised checkpoints need a dequantiser that this version does not have",
                    )
                )
    if len(problems) <= MAX_ROWS:
        return problems
    return [*problems[:MAX_ROWS], Diagnostic(code="E0705", message=f"… and {len(problems) - MAX_ROWS} more like these")]


def read_parameters(matching: Matching, checkpoint: Checkpoint, dtype: torch.dtype) -> Iterable[tuple[str, Tensor]]:
    """Each parameter path with its tensor. Untouched tensors stay mapped to the file; nothing is read ahead.

    Raises E0756 where a tensor holds NaN or infinity, E0707 where a tied copy differs from its owner.
    """
    by_path = matching.recipes
    key = _judged(matching, checkpoint)
    is_known = key is not None and is_noted("sound", key)
    for path, recipe in by_path.items():
        parts = [checkpoint.read(name) for name in recipe.sources]
        for name, part in zip(recipe.sources, parts, strict=True):
            if not is_known:
                require_finite(name, part, checkpoint.entries[name].file)
        tensor = imported(recipe.rule, recipe.spec, parts)
        yield path, tensor.to(dtype)
    if is_known:
        return
    _require_tied_equal(matching, checkpoint)
    if key is not None and _judged(matching, checkpoint) == key:
        note("sound", key)


def _judged(matching: Matching, checkpoint: Checkpoint) -> str | None:
    """The key under which it is remembered that these tensors of these files are finite, and tied ones equal."""
    files = identity(checkpoint.files)
    names = [(path, recipe.sources) for path, recipe in matching.recipes.items()]
    text = repr((files, names, sorted(matching.tied_duplicates.items())))
    return None if files is None else hashlib.sha256(text.encode()).hexdigest()[:40]


def _require_tied_equal(matching: Matching, checkpoint: Checkpoint) -> None:
    """Raises E0707 where a tied copy differs from its owner."""
    by_path = matching.recipes
    for name, owner in matching.tied_duplicates.items():
        recipe = by_path.get(owner)
        if recipe is None:
            continue
        original = imported(recipe.rule, recipe.spec, [checkpoint.read(source) for source in recipe.sources])
        copy = imported(None, recipe.spec, [checkpoint.read(name)])
        if not torch.equal(copy, original):
            raise LlmcError(
                [
                    Diagnostic(
                        code="E0707",
                        message=f"{name} is tied to {owner} by the spec, but the checkpoint has another tensor there",
                        help='where both are meant, load with params={"tie_word_embeddings": False}, or --set '
                        "tie_word_embeddings=false; else remove the tensor",
                    )
                ]
            )


def export_parameters(
    weights: WeightMap, tensors: Mapping[str, Tensor], layout: Mapping[str, str] | None
) -> dict[str, Tensor]:
    """Checkpoint names -> tensors: the inverse of reading. `layout` names (a folder that was read) decide about the
    prefix and about tied copies."""
    found = recipes(weights, None if layout is None else layout.keys())
    saved: dict[str, Tensor] = {}
    partial: dict[str, list[tuple[Recipe, Tensor]]] = {}
    for path, recipe in found.items():
        if recipe.rule is not None and recipe.rule.how == "split":
            partial.setdefault(recipe.sources[0], []).append((recipe, tensors[path]))
            continue
        saved.update(
            zip(recipe.sources, exported(recipe.rule, recipe.spec, tensors[path], len(recipe.sources)), strict=True)
        )
    for name, parts in partial.items():
        ordered = sorted(parts, key=lambda part: part[0].rule.part or 0 if part[0].rule else 0)
        axis = ordered[0][0].rule.axis if ordered[0][0].rule else 0
        saved[name] = torch.cat([tensor for _, tensor in ordered], dim=axis)
    for path, owner in weights.ties.items():
        for name in _with_prefix((path,), weights.prefix, None if layout is None else set(layout)):
            if layout is not None and name in layout:
                saved[name] = exported(None, weights.parameters[path], tensors[owner], 1)[0]
    return saved


def checkpoint_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype that holds most elements: what `dtype=None` loads as."""
    sizes: dict[torch.dtype, int] = {}
    for entry in checkpoint.entries.values():
        if entry.dtype.is_floating_point:
            count = 1
            for size in entry.shape:
                count *= size
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + count
    known = {torch.float32, torch.float16, torch.bfloat16}
    return max((d for d in sizes if d in known), key=sizes.__getitem__, default=torch.float32)
