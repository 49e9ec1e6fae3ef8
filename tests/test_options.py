"""The table of options, and all that is made of it: signatures, docstrings, the command line, the documentation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer.main

from quantrim import options, words
from quantrim.cli import app
from quantrim.model import Recipe, compress, plan

DOCUMENT = Path(__file__).parents[1] / "docs" / "reference" / "options.md"
OTHERS = {"source", "destination", "recipe", "overwrite", "progress"}
COMMAND: Any = typer.main.get_command(app).commands["compress"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("function", [compress, plan])
def test_signatures_are_those_of_the_table(function: Callable[..., object]) -> None:
    """Names, defaults and annotations, in order; all by keyword alone."""
    found = [p for p in inspect.signature(function).parameters.values() if p.name not in OTHERS]
    assert [p.name for p in found] == list(options.ARGUMENTS)
    for parameter, option in zip(found, options.ARGUMENTS.values(), strict=True):
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert (parameter.default, type(parameter.default)) == (option.default, type(option.default)), option.name
        assert parameter.annotation.replace('"', "'") == option.type, option.name
    assert get_type_hints(function)["scale_dtype"] == words.Float | None


def test_the_docstring_of_compress_has_every_option() -> None:
    """`python -m quantrim.options docstring` prints that section."""
    assert f"\n{options.docstring()}\n" in (inspect.unwrap(compress).__doc__ or "")


def test_the_documentation_has_every_option() -> None:
    """`python -m quantrim.options` prints the table."""
    assert DOCUMENT.read_text().endswith(f"\n\n{options.markdown()}\n")


def test_the_command_line_has_every_option_with_flags() -> None:
    found = {p.name: p for p in COMMAND.params if p.name in options.ARGUMENTS}
    wanted = {name: option for name, option in options.ARGUMENTS.items() if option.flags}
    assert list(found) == list(wanted)
    for name, option in wanted.items():
        flags = found[name].opts + found[name].secondary_opts
        assert flags == option.flags[0].split("/") and found[name].default is None
        assert found[name].rich_help_panel == option.heading
        assert "{" not in found[name].help and '"' not in found[name].help


@pytest.mark.parametrize("name", options.OF_RULES)
def test_defaults_are_values(name: str) -> None:
    option = options.OF_RULES[name]
    assert option.default in (None, "auto") or option.check(name, option.default) == option.default
    assert not options.is_on(name, option.default)


@pytest.mark.parametrize("name", options.OF_RULES)
def test_relations_are_among_options(name: str) -> None:
    option = options.OF_RULES[name]
    named = [*option.of, *(g for rule in (*option.needs, *option.excludes) for g in rule.others)]
    assert {each.name for each in named} <= options.OF_RULES.keys()
    for each in named:
        for value in each.values:
            assert options.OF_RULES[each.name].check(each.name, value) == value


def test_keys_of_the_top_are_fields_of_recipes() -> None:
    recipe = Recipe()
    assert {name: getattr(recipe, name) for name in options.OF_TOP} == {
        name: option.default for name, option in options.OF_TOP.items()
    }
