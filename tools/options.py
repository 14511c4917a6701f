"""Options and arguments that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from ..compiler.ops.declaration import Value

F = TypeVar("F", bound=Callable[..., Any])
_HUMAN = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?)([kKmMgG]?)")
_FACTORS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


class HumanInt(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A whole number of at least `minimum`; `4k` is 4096."""

    name = "N"

    def __init__(self, minimum: int = 1) -> None:
        self.minimum = minimum

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip()
        found = _HUMAN.fullmatch(text.removeprefix("-"))
        number = (
            float(found[1].replace("_", "")) * _FACTORS[found[2].lower()] if found and len(str(value)) < 20 else 0.5
        )
        if number != int(number):
            self.fail(f"{value!r} is not a whole number; write e.g. 512, 4k or 1M", param, ctx)
        if text.startswith("-") or number < self.minimum:
            self.fail(f"{value} is less than {self.minimum}", param, ctx)
        return int(number)


class Setting(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """`k=v`, the value as YAML reads it."""

    name = "K=V"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Value]:
        name, equals, text = str(value).partition("=")
        if not equals or not name.strip() or "\n" in text:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        from typing import cast

        from ..specs.diagnostics import LlmcError
        from ..specs.source import YamlMap, plain
        from ..specs.yaml_reader import read_yaml

        try:
            found = read_yaml(f"value: {text}", "--set")
        except LlmcError as error:
            self.fail(f"the value of {name} is not YAML: {error.diagnostics[0].message}", param, ctx)
        assert isinstance(found, YamlMap)
        return name.strip(), cast("Value", plain(found.entries["value"].value))


class Device(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """`cpu`, `cuda`, `cuda:0`, or `cuda:sm_90` and its like: an architecture, which need not be here."""

    name = "cpu|cuda|cuda:sm_90"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from ..kernels.gpu.target import TARGETS

        known = ", ".join(f"cuda:{name}" for name in TARGETS)
        if re.fullmatch(r"cuda:sm_[0-9]{2,3}[af]?", str(value)):
            if str(value).partition(":")[2] not in TARGETS:
                self.fail(f"there is no GPU architecture {value!r} among {known}", param, ctx)
        elif not re.fullmatch(r"cpu|cuda(:[0-9]{1,2})?", str(value)):
            self.fail(f"{value!r} is none of cpu, cuda, {known}", param, ctx)
        return str(value)


def complete_spec(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Packaged names, else files."""
    from ..specs.packaged import packaged_names

    names = [CompletionItem(name) for name in packaged_names() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def _remember(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    ctx.meta["llmc.json"] = value
    return value


def json_option(function: F) -> F:
    """`--json`: the result, and diagnostics too, as JSON on stdout."""
    text = "Print the result, and diagnostics too, as JSON on stdout."
    return click.option("--json", "as_json", is_flag=True, callback=_remember, is_eager=True, help=text)(function)


def set_option(function: F) -> F:
    """`--set k=v`, as a tuple of pairs."""
    text = "Set a param of the spec; the value is read as YAML. Can be given again."
    return click.option("--set", "settings", type=Setting(), multiple=True, help=text)(function)


def as_params(settings: tuple[tuple[str, Value], ...]) -> Mapping[str, Value]:
    """The last of several settings of one param wins."""
    return dict(settings)


def device_option(function: F) -> F:
    return click.option("--device", type=Device(), default="cpu", show_default=True, help="Where it runs.")(function)


def dtype_option(function: F) -> F:
    choices = click.Choice(["float32", "bfloat16", "float16"])
    return click.option("--dtype", type=choices, help="Default: the checkpoint's, else float32.")(function)


def cache_dtype_option(function: F) -> F:
    choices = click.Choice(["float32", "bfloat16", "float16", "float8_e4m3fn"])
    return click.option("--cache-dtype", type=choices, help="Of cached keys and values; default: --dtype.")(function)


def spec_argument(name: str = "spec", *, is_required: bool = True, nargs: int = 1) -> Callable[[F], F]:
    return click.argument(name, required=is_required, nargs=nargs, shell_complete=complete_spec)


def output_option(function: F) -> F:
    return click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of stdout.")(function)
