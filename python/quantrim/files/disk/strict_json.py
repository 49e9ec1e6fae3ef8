"""JSON from strangers: what Python's parser forgives is refused here."""

from __future__ import annotations

import gc
import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from .errors import FormatError, quote

DIGITS = 20  # of the longest integer: 2^64 has 20, and int() of millions is slow


def parse(raw: bytes | bytearray, path: Path, what: str, offset: int = 0) -> Any:
    """Return the value in `raw`, bytes of `path` that begin at `offset`.

    FormatError, naming `what`, for bytes that are not UTF-8 or not JSON, names that occur twice in one object, lone
    surrogates, NaN, Infinity, numbers too large, and nesting that is too deep. "-0" is the float -0.0, as other readers
    have it.
    """
    try:
        text = raw.decode("utf-8")
        with collector_paused():
            value = json.loads(
                text, object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_constant
            )
        if b"\\u" in raw:  # the only way to a lone surrogate
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} is not UTF-8: {error.reason}", path=path, offset=offset + error.start) from None
    except json.JSONDecodeError as error:
        where = offset + len(text[: error.pos].encode("utf-8"))
        raise FormatError(f"{what} is not JSON: {error.msg}", path=path, offset=where) from None
    except UnicodeEncodeError as error:
        problem = f"has a lone surrogate in {quote(error.object[max(error.start - 20, 0) : error.end])}"
    except RecursionError:
        problem = "is nested too deeply"
    except ValueError as error:
        problem = str(error)
    raise FormatError(f"{what} {problem}", path=path)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"has the name {quote(twice)} twice in one object")
    return result


def _integer(text: str) -> int | float:
    if len(text) > DIGITS:
        raise ValueError(f"has a number of {len(text)} digits; allowed are {DIGITS}")
    return -0.0 if text == "-0" else int(text)


def _real(text: str) -> float:
    if math.isinf(float(text)):
        raise ValueError(f"has the number {quote(text)}, which is no finite float64")
    return float(text)


def _constant(text: str) -> NoReturn:
    raise ValueError(f"has {text}, which is not JSON")


@contextmanager
def collector_paused() -> Iterator[None]:
    """Do without the garbage collector, which would search millions of new objects again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
