"""Values of options: the checks, each given (name, value), and what the words of a command line become.

Nothing that takes time is imported before a value is checked, so that help and completion wait for no kernels.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from . import words

NONE = "none"  # what a recipe and the command line write for None
LARGEST = float.fromhex("0x1.fffffep127")  # of float32


def integer(low: int, high: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        from . import checks

        return checks.integer(name, value, low, high)

    return check


def number(low: float, high: float) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        from . import checks

        return checks.number(name, value, low, high)

    return check


def one_of(values: tuple[str, ...]) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        from . import checks

        return checks.choice(name, value, values)

    return check


def flag(name: str, value: Any) -> bool:
    from . import checks

    return checks.flag(name, value)


def group_size(name: str, value: Any) -> int | str:
    from . import checks

    if isinstance(value, str) and value not in ("channel", "tensor"):
        near = checks.nearest(value, ("channel", "tensor"))
        raise ValueError(f'{name} must be "channel", "tensor" or an integer of 1..{2**31 - 1}, not {value!r}{near}')
    return value if isinstance(value, str) else checks.integer(name, value, 1, 2**31 - 1)


def scale(name: str, value: Any) -> str | float:
    from . import checks

    if isinstance(value, str):
        return checks.choice(name, value, words.SCALE_RULES)
    return checks.number(name, value, 0.0, LARGEST)


def codebook(name: str, value: Any) -> str | tuple[float, ...]:
    from .codebooks import check_codebook

    return check_codebook(name, value)


def prune(name: str, value: Any) -> float | str:
    from . import checks
    from .files.disk.errors import quote

    if not isinstance(value, str):
        return checks.number(name, value, 0.0, 1.0)
    nm = checks.n_of_m(value)
    if nm is None:
        wanted = f'a fraction of 0..1 or "n:m" with 1 <= n < m <= {checks.MAX_M}'
        raise ValueError(f"{name} must be {wanted}, not {quote(value)}")
    return f"{nm[0]}:{nm[1]}"


def prune_pattern(name: str, value: Any) -> str | tuple[int, int]:
    from . import checks
    from .files.disk.errors import quote

    if isinstance(value, (list, tuple)) and len(value) == 2:
        return checks.integer(name, value[0], 1, 2**31 - 1), checks.integer(name, value[1], 1, 2**31 - 1)
    if not isinstance(value, str) or value not in ("row", "column"):
        near = checks.nearest(value, ("row", "column"))
        raise ValueError(f'{name} must be "row", "column" or (rows, cols), not {quote(value)}{near}')
    return value


def path(name: str, value: Any) -> str:
    from .files.disk.errors import quote

    try:
        path = os.fspath(value)
    except TypeError:
        raise TypeError(f"{name} must be the path of a checkpoint, not {type(value).__name__}") from None
    if not isinstance(path, str) or not path:
        raise ValueError(f"{name} must be the path of a checkpoint, not {quote(path)}")
    return path


def globs(name: str, value: Any) -> tuple[str, ...]:
    from .files.disk.errors import quote

    globs = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else None
    if globs is None or not all(isinstance(glob, str) for glob in globs):
        raise TypeError(f"{name} must be a glob or a list of globs, not {quote(value)}")
    return globs


def size(name: str, value: Any) -> int:
    from .sizes import parse_size

    return parse_size(name, value)


# What the words of a command line become; words that mean nothing are for the checks to judge


def number_of(word: str) -> int | str | None:
    if word == NONE:
        return None
    return int(word) if word.isascii() and word.isdecimal() and len(word) < 20 else word


def fraction_of(word: str) -> float | str:
    with contextlib.suppress(ValueError):
        return float(word)
    return word


def block_of(word: str) -> tuple[int, int] | str:
    found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", word)
    return (int(found[1]), int(found[2])) if found else word


def values_of(word: str) -> list[float] | str:
    with contextlib.suppress(ValueError):
        return [float(each) for each in word.split(",")] if "," in word else word
    return word
