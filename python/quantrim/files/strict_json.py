"""JSON from strangers: what Python's parser forgives is refused here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from .errors import FormatError, quote

DIGITS = 20  # of the longest integer: 2^64 has 20, and int() of millions is slow


class _Refused(Exception):
    pass


def parse(raw: bytes | bytearray, path: Path, what: str, offset: int = 0) -> Any:
    """The value in `raw`, bytes of `path` that begin at `offset`. FormatError, naming `what`, for bytes that
    are not UTF-8 or not JSON, names that occur twice in one object, lone surrogates, NaN, Infinity, numbers
    too large, and nesting that is too deep. "-0" is the float -0.0, as other readers have it."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"{what} is not UTF-8: {error.reason}"
        raise FormatError(problem, path=path, offset=offset + error.start) from None
    escapes = b"\\u" in raw  # the only way to a lone surrogate
    try:
        return json.loads(
            text,
            object_pairs_hook=_object_with_escapes if escapes else _object,
            parse_int=_integer,
            parse_float=_real,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        where = offset + len(text[: error.pos].encode("utf-8"))
        raise FormatError(f"{what} is not JSON: {error.msg}", path=path, offset=where) from None
    except _Refused as error:
        raise FormatError(f"{what} {error}", path=path) from None
    except RecursionError:
        raise FormatError(f"{what} is nested too deeply", path=path) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"has the name {quote(twice)} twice in one object")
    return result


def _object_with_escapes(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for pair in pairs:
        for text in pair:
            if isinstance(text, str) and not _encodes(text):
                raise _Refused(f"has a lone surrogate in {quote(text)}")
    return _object(pairs)


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _integer(text: str) -> int | float:
    if len(text) > DIGITS:
        raise _Refused(f"has a number of {len(text)} digits; allowed are {DIGITS}")
    return -0.0 if text == "-0" else int(text)


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Refused(f"has the number {quote(text)}, which is no finite float64")
    return value


def _constant(text: str) -> NoReturn:
    raise _Refused(f"has {text}, which is not JSON")
