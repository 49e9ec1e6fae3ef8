"""What pages take from the program: docstrings as reStructuredText, and the help of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

COMMANDS = "<!-- the help of each command -->"  # in a page: replaced when it is built
WIDTH = 90  # of the help
_TERM = re.compile(r"[A-Za-z_]\w*(?:, [A-Za-z_]\w*)*: ")  # how a line begins that is about parameters
_MARKUP = re.compile(r"([\\*|_])")


def on_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Sphinx hands the lines of a docstring, and takes what they are then."""
    lines[:] = as_rst(lines)


def as_rst(lines: list[str]) -> list[str]:
    """Return a docstring, plain text with "name: what it is" lines, as reStructuredText.

    >>> as_rst(["Return |w|.", "", "w: any shape,", "    any dtype."])
    ['Return \\\\|w\\\\|.', '', '**w**', '    any shape, any dtype.', '']
    """
    found: list[str] = []
    for paragraph in _paragraphs(lines):
        if paragraph[0].startswith(">>>"):
            found += paragraph
        elif paragraph[0].startswith(" "):
            found += ["::", "", *(f"    {line}" for line in paragraph)]
        else:
            found += _items(paragraph)
        found.append("")
    return found


def _paragraphs(lines: list[str]) -> Iterator[list[str]]:
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield paragraph
            paragraph = []


def _items(paragraph: list[str]) -> Iterator[str]:
    """Yield a paragraph, with a definition for each of its lines that begins with names of parameters."""
    blocks: list[list[str]] = []
    for line in paragraph:
        if not blocks or (_TERM.match(line) and not line.startswith(" ")):
            blocks.append([])
        blocks[-1].append(line.strip())
    for number, block in enumerate(blocks):
        text = " ".join(block)
        term = _TERM.match(text)
        if number:
            yield ""
        if term:
            yield f"**{_escaped(term.group()[:-2])}**"
            yield f"    {_inline(text[term.end() :])}"
        else:
            yield _inline(text)


def _inline(text: str) -> str:
    """Return text whose `words` are literals, and nothing else is markup."""
    pieces = re.split(r"`([^`]+)`", text)
    return "".join(f"``{piece}``" if k % 2 else _escaped(piece) for k, piece in enumerate(pieces))


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\1", text).replace("`", r"\`")


def on_source(app: Any, docname: str, source: list[str]) -> None:
    """Sphinx hands the text of a page, and takes what it is then."""
    if COMMANDS in source[0]:
        source[0] = source[0].replace(COMMANDS, help_pages())


def help_pages() -> str:
    """Return a section for the program and for each command: what `--help` prints."""
    import typer.main

    from quantrim.cli import app

    names = ["", *typer.main.get_command(app).commands]  # type: ignore[attr-defined]
    return "\n".join(f"## {name or 'quantrim'}\n\n```text\n{help_of(name)}\n```\n" for name in names)


def help_of(command: str) -> str:
    """Return what `quantrim COMMAND --help` prints, without blanks at the ends of lines."""
    from typer.testing import CliRunner

    from quantrim.cli import app

    words = [command, "--help"] if command else ["--help"]
    said = CliRunner().invoke(
        app, words, prog_name="quantrim", env={"COLUMNS": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1"}
    )
    if said.exit_code:
        raise RuntimeError(f"quantrim {' '.join(words)} must print its help, not fail: {said.output}")
    return "\n".join(line.rstrip() for line in said.output.strip("\n").splitlines())
