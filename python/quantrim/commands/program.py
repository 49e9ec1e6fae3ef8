"""The program that the commands belong to, and the words that several of them take."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from . import at_once, outcome, terminal, wording

COMPLETING = "_QUANTRIM_COMPLETE"  # in the environment where a shell asks what a word may become


def flowing(text: str) -> str:
    """Help whose paragraphs are broken as wide as a terminal is; those with indented lines stay as written.

    >>> flowing("One\\nline.\\n\\nExample:\\n  quantrim info")
    'One line.\\n\\nExample:\\n  quantrim info'
    """
    paragraphs = text.split("\n\n")
    return "\n\n".join(p if "\n " in p else " ".join(p.split("\n")) for p in paragraphs)


def _plainly(parameters: Sequence[Any]) -> Sequence[Any]:
    """Return the parameters, shown in help without types: SRC and DST say what they are, and flags take no value.

    `--help` is listed beside the option before it."""
    for p in parameters:
        if p.param_type_name == "argument":
            p.display_type_rich = lambda ctx: None
        elif p.is_flag and p.metavar is None:
            p.metavar = ""
    options = [p for p in parameters if p.param_type_name == "option"]
    options[-1].rich_help_panel = getattr(options[-2], "rich_help_panel", None) if len(options) > 1 else None
    return parameters


class Command(TyperCommand):
    """One command. What it needs is loaded when its words are known to be right, and while a signal may still end
    the program at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "help": flowing(kwargs["help"])})

    def get_params(self, ctx: Any) -> Any:
        return _plainly(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]  # SRC, not {SRC}

    def invoke(self, ctx: Any) -> Any:
        wording.use(wording.options_of(self.params, ctx.params))
        with at_once.loading():
            from .. import backend, model  # noqa: F401

            backend.current_isa()  # before any work a ValueError about QUANTRIM_ISA or QUANTRIM_THREADS
        return super().invoke(ctx)


class Program(TyperGroup):
    """All commands together. Whatever they raise becomes an exit code and at most one line on stderr."""

    def get_params(self, ctx: Any) -> Any:
        return _plainly(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(outcome.exit_code(error)) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        wording.use({})
        with outcome.warnings_said():
            try:
                code = super().main(*args, **{**kwargs, "standalone_mode": False})
            except typer.Abort:
                code = outcome.INTERRUPTED
            except (Exception, KeyboardInterrupt) as error:  # of the command line itself
                code = outcome.exit_code(error)
            except SystemExit as end:  # typer's answer to a shell that asks for words, and (1) to a broken pipe
                code = end.code
                if code and COMPLETING not in os.environ:
                    terminal.drop_output(sys.stdout)
                    code = outcome.BROKEN_PIPE
        sys.exit(outcome.finish_output(code or 0))


class _App(typer.Typer):
    """Commands are a Command each."""

    def command(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        return super().command(*args, **{"cls": Command, **kwargs})


app = _App(
    cls=Program,
    help="Make neural-network weights smaller on a CPU: prune, round to few bits, keep them loadable.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

MODEL = "A file of weights or a model folder."
Source = Annotated[Path, typer.Argument(metavar="SRC", help=MODEL, show_default=False)]
Target = Annotated[Path, typer.Argument(metavar="DST", help="The file or folder to write.", show_default=False)]
JSON_HELP, THREADS_HELP = "Print JSON, for machines.", "Threads to use: all by default."
Json = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
Threads = Annotated[int | None, typer.Option(metavar="N", help=THREADS_HELP, show_default=False)]


def one_of(values: Sequence[str]) -> dict[str, Any]:
    """Make what lets shells complete the values of an option."""
    return {"autocompletion": lambda: list(values)} if values else {}


def _version(wanted: bool) -> None:
    if wanted:
        from .._version import __version__

        terminal.print_line(terminal.console(), f"quantrim {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def program(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        terminal.print_line(terminal.console(), context.get_help())  # rich has printed it; then it is ''
        raise typer.Exit(outcome.BAD_INPUT)
