"""Sizes of files, as people write and read them."""

from __future__ import annotations

import re

from . import checks
from .files.disk.errors import quote

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_READ = ("B", "kB", "MB", "GB", "TB", "PB")


def parse_size(name: str, value: object) -> int:
    """Return a number of bytes from an integer, or a text with a unit.

    >>> parse_size("size", "2GB"), parse_size("size", "1.5 MiB"), parse_size("size", 4096)
    (2000000000, 1572864, 4096)
    """
    if not isinstance(value, str):
        return checks.integer(name, value, 1, 2**62)
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([KMGT]I?)?B?", value.upper(), re.ASCII)
    if found is None:
        raise ValueError(f"{name} must be a number of bytes, such as 5GB, 500MiB or 4096, not {quote(value)}")
    unit = _UNITS[found[2] or ""]
    return checks.integer(name, int(float(found[1]) * unit) if "." in found[1] else int(found[1]) * unit, 1, 2**62)


def readable(count: float) -> str:
    """Write bytes in the largest unit that leaves at least 1.

    >>> readable(203752), readable(999), readable(16_060_522_240)
    ('203.8 kB', '999 B', '16.1 GB')
    """
    for unit in _READ:
        if count < 999.95 or unit == _READ[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
