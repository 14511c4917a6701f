"""The command line. Each command is one file of `commands/`, imported when it is asked for: `--help` stays quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module

import click

COMMANDS: Mapping[str, tuple[str, str]] = {
    "list": ("list_specs", "The packaged specs: parameters, layers, context."),
    "check": ("check", "Check specs; every mistake with its place and remedy."),
    "build": ("build", "Compile a spec into a folder that can be read."),
    "show": ("show", "Show a spec as a table, text, a picture, or compare two."),
    "explain": ("explain", "Why each kernel was chosen, or what a code such as E0203 means."),
    "plan": ("plan", "Parameters, FLOPs, bytes, whether it fits, predicted speed."),
    "generate": ("generate", "Continue a prompt."),
    "verify": ("verify", "Compare with transformers node by node."),
    "import": ("import_config", "Make a spec of a Hugging Face folder's config.json."),
    "bench": ("bench", "Measure prefill and decode speed."),
    "schema": ("schema", "Print the JSON Schema of the spec language."),
    "doctor": ("doctor", "What this machine has, and what is slower for want of it."),
    "cache": ("cache", "List or clear the user's cache folder."),
}


class Commands(click.Group):
    """The commands of the table above. Whatever goes wrong inside one becomes a message and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return import_module(f"..commands.{COMMANDS[cmd_name][0]}", __name__).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from ..specs.diagnostics import did_you_mean, quoted

            ctx.fail(f"there is no command {quoted(args[0])}; {did_you_mean(args[0], COMMANDS) or 'see llmc --help'}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        if any(name.startswith("LLMC_") for name in os.environ):
            from .environment import unknown_variables

            for line in unknown_variables():
                click.echo(f"warning: {line}", err=True)
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            from .failure import report

            ctx.exit(report(error, as_json=bool(ctx.meta.get("llmc.json"))))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="llmc", message="llmc %(version)s")
def cli() -> None:
    """llmc: a declarative compiler for language models. One YAML file is the architecture.

    SPEC is a YAML file or the name of a packaged spec (`llmc list`). Results go to stdout, progress to stderr; every
    command takes --json. Exit status: 0 ok, 1 diagnostics, 2 usage, 3 environment, 4 resources.

    \b
    To begin:  llmc generate -p "In the beginning"
               llmc show llama2_7b
               llmc check mine.yaml

    Environment: LLMC_NUM_THREADS=N; LLMC_CACHE_GIB=N bounds the cache; LLMC_NATIVE=0, LLMC_KERNELS=0 and LLMC_PASSES=0
    do without machine code, kernels and fusion; LLMC_TRACEBACK=1 shows where a bug of llmc is.
    """


def main() -> None:
    """The entry point of the console script."""
    try:
        cli(prog_name="llmc")
    except KeyboardInterrupt:
        sys.exit(130)
