"""Python's arguments in the words of the command line: one translation for all that is said to people.

Messages come from functions that have arguments, `exclude='*embed*'`; who typed options reads `--exclude '*embed*'`.
What is in quotes, names of tensors and files, stays as it is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Option(NamedTuple):
    """An argument's option; negative: the one that says no, "" where there is none."""

    name: str
    negative: str = ""

    @property
    def both(self) -> str:
        return f"{self.name}/{self.negative}" if self.negative else self.name


SETTINGS_COME_FROM = "recipe"  # the argument: where it is given, messages are about the words of that file
PHRASES = {"(rows, cols)": "ROWSxCOLS"}  # how options are written where Python has no text

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_VALUE = rf"{_QUOTED}|\([^()]*\)|\[[^\[\]]*\]|[-+\w.]*\w"
_BEFORE = r"(?<![\w./=-])"
_AFTER = r"(?![\w/=-])"

_options: dict[str, Option] = {}
_pattern: re.Pattern[str] | None = None


def use(options: Mapping[str, Option]) -> None:
    """Speak of these options from now on, by the names of their arguments."""
    global _options, _pattern
    _options = dict(options)
    words = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    long = "|".join(map(re.escape, sorted((name for name in options if "_" in name), key=len, reverse=True)))
    listed = rf"(?:{words})(?:(?:, | and | or )(?:{words}))*"
    ways = [
        rf"{_BEFORE}(?P<key>{words})=(?P<value>{_VALUE})",
        rf"(?P<quoted>{_QUOTED})",
        rf"(?P<subjects>(?:^|(?<=: )|(?<=give )|(?<=either )|(?<=not )){listed})(?= must | needs |, |$| ')",
        rf"(?:(?<=with )|(?<=without )|(?<=unless ))(?P<named>{listed})(?=[,;:)]|$)",
        rf"{_BEFORE}(?P<word>{long or '(?!)'}){_AFTER}",
        rf"(?P<phrase>{'|'.join(map(re.escape, PHRASES))})",
    ]
    _pattern = re.compile("|".join(ways)) if options else None


def options_of(parameters: Iterable[Any], given: Mapping[str, Any]) -> dict[str, Option]:
    """Map the arguments of a command to its options.

    parameters: as typer has them. given: what was typed. Settings of a recipe are not in the map: their
    keys are arguments."""
    found = {
        p.name: Option(p.opts[0], *p.secondary_opts[:1])
        for p in parameters
        if p.param_type_name == "option" and p.opts and p.opts[0].startswith("--")
    }
    if given.get(SETTINGS_COME_FROM) is None:
        return found
    return {name: option for name, option in found.items() if given.get(name) or name == "overwrite"}


def worded(text: str) -> str:
    """Return the text in the words of the command line.

    >>> use({"bits": Option("--bits"), "exclude": Option("--exclude"), "max_size": Option("--max-size")})
    >>> worded("vLLM opens no compressed embeddings; exclude='*embed*' copies them")
    "vLLM opens no compressed embeddings; --exclude '*embed*' copies them"
    >>> worded("bits must be an integer of 2..8, not 9")
    '--bits must be an integer of 2..8, not 9'
    >>> worded("'max_size.safetensors': tensor 'bits=4': fewer than max_size bytes")
    "'max_size.safetensors': tensor 'bits=4': fewer than --max-size bytes"
    >>> use({})
    """
    return text if _pattern is None else _pattern.sub(_said, text)


def _said(found: re.Match[str]) -> str:
    if found["key"]:
        return _assigned(found["key"], found["value"])
    if found["word"]:
        return _options[found["word"]].both
    if found["phrase"]:
        return PHRASES[found["phrase"]]
    listed = found["subjects"] or found["named"]
    if listed is None:
        return found[0]
    return re.sub(r"\w+", lambda word: _options[word[0]].both if word[0] in _options else word[0], listed)


def _assigned(name: str, value: str) -> str:
    """Write `name=value` as it would be typed."""
    option = _options[name]
    if value in ("True", "False"):
        return option.name if value == "True" else option.negative or f"no {option.name}"
    if value[0] in "'\"":
        return f"{option.name} {shlex.quote(value[1:-1])}"
    if value[0] in "([":
        words = [word.strip().strip("'\"") for word in value[1:-1].split(",") if word.strip()]
        return f"{option.name} {('x' if value[0] == '(' else ',').join(words)}"
    return f"{option.name} {value.lower() if value == 'None' else value}"
