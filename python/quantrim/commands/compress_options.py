"""The command line of `compress`: the options of the table, and a few words of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ..option_values import NONE
from ..options import ARGUMENTS, OUTPUT, TENSORS, Option
from .program import JSON_HELP, THREADS_HELP, one_of

RUNNING = "Running"
WIDTH = 18  # of the column of values in the help

F = TypeVar("F", bound=Callable[..., None])


def _option(panel: str, help: str, *names: str, metavar: str = "", values: Sequence[str] = ()) -> Any:
    """Make an option. values: words that a shell completes; the help lists them where there is no metavar."""
    return typer.Option(
        *names,
        metavar=_broken(metavar or "|".join(values)) or None,
        help=help,
        show_default=False,
        rich_help_panel=panel,
        **one_of(values),
    )


def _broken(choices: str) -> str:
    """Break choices into lines of WIDTH, where rich would break within a word.

    >>> _broken("transformers|vllm|bitsandbytes|any")
    'transformers|vllm|\\nbitsandbytes|any'
    """
    lines = [""]
    for word in choices.replace("|", "| ").split():
        if lines[-1] and len(lines[-1]) + len(word) > WIDTH:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def _of_table(option: Option) -> inspect.Parameter:
    """Make a parameter of typer for an option; None is as by default."""
    help = option.described(_flag, NONE, more=False).replace('"', "")
    shown = _option(option.heading, help, *option.flags, metavar=option.metavar, values=option.values)
    typed: Any = Annotated[option.word | None, shown]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=typed)


def _flag(name: str) -> str:
    """Return what an argument is called on the command line."""
    flags = ARGUMENTS[name].flags if name in ARGUMENTS else ()
    return flags[0] if flags else name


def with_table(command: F) -> F:
    """Give the command a parameter for each option of the table, in place of `**said`."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    table = [_of_table(option) for option in ARGUMENTS.values() if option.flags]
    first = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.default is p.empty]
    others = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.default is not p.empty]
    parameters = [*first, *table, *others]
    command.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def asked(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of `compress` and `plan`, of what the options of the table were given.

    >>> asked({"group_size": "32", "prune": "2:4", "scale": None, "include": []})
    {'group_size': 32, 'prune': '2:4'}
    >>> asked({"bits": "none", "prune": "0.5", "prune_pattern": "4x1", "codebook": "-1,0,0.5"})
    {'bits': None, 'prune': 0.5, 'prune_pattern': (4, 1), 'codebook': [-1.0, 0.0, 0.5]}
    """
    return {name: ARGUMENTS[name].text(word) for name, word in said.items() if word not in (None, [])}


Recipe = Annotated[
    Path | None,
    _option(
        TENSORS,
        "Settings for each tensor, as above, in place of the options. The keys are the options' names with underscores "
        "(group_size), reader for --for, keep and drop; docs/reference/options.md lists them.",
        metavar="FILE.toml",
    ),
]
Lossless = Annotated[
    bool, _option(OUTPUT, "Change no weight: pack the bytes closer, until quantrim restore.", "--lossless")
]
Report = Annotated[
    Path | None, _option(OUTPUT, "Write what became of each tensor: .html, .json or .md.", metavar="FILE")
]
DryRun = Annotated[bool, _option(RUNNING, "Show the plan and the size; write nothing.", "--dry-run")]
Overwrite = Annotated[bool, _option(RUNNING, "Replace DST, and the report, where they exist.", "--overwrite")]
Threads = Annotated[int | None, _option(RUNNING, THREADS_HELP, metavar="N")]
Json = Annotated[bool, _option(RUNNING, JSON_HELP, "--json")]
