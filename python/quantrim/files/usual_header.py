"""A header as the format's own library writes it, read in bulk: some files hold 10^6 tensors.

What is written in any other way, or breaks a rule, is left to the reader that knows them all.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

# No spaces, no escapes, no extra fields; integers of at most 18 digits, so that sums stay below 2^63.
_INTEGER = "(?:0|[1-9][0-9]{0,17})"
_ENTRY = re.compile(
    r'"([^"\\\x00-\x1f]*)":'
    r'\{"dtype":"([A-Z0-9_]+'
    rf'","shape":\[(?:{_INTEGER}(?:,{_INTEGER})*)?)\],'
    rf'"data_offsets":\[({_INTEGER}),({_INTEGER})\]\}}'
    r'(?:,(?=")|\Z)'
)
_GROUPS = 4  # name, dtype and shape together (few of them differ), begin, end
_METADATA = '{"__metadata__":'


@dataclass(frozen=True)
class Columns:
    """One item per tensor, in the order of their bytes, which follow each other from 0 on without a gap.

    sizes: in bytes. metadata: the text of that object, as it stands in the header.
    """

    names: list[str]
    dtypes: list[str]
    shapes: list[tuple[int, ...]]
    sizes: list[int]
    metadata: str


def read(text: str, count_bytes: Callable[[str, Sequence[int]], int]) -> Columns | None:
    """The tensors of a header; None where it is not as usual, or not right.

    count_bytes: bytes of (dtype, shape); a KeyError or ValueError where there is no such tensor.
    """
    try:
        metadata, body = _metadata_and_rest(text)
    except (ValueError, RecursionError):
        return None
    parts = _ENTRY.split(body)  # what is between two entries, and the groups of the next, in turn
    if any(parts[:: _GROUPS + 1]):
        return None
    names, kinds, begins, ends = (parts[k :: _GROUPS + 1] for k in range(1, _GROUPS + 1))
    try:
        known = {kind: _kind(kind, count_bytes) for kind in set(kinds)}
    except (KeyError, ValueError):
        return None
    sizes = [known[kind][2] for kind in kinds]
    if begins != ["0", *ends[:-1]][: len(begins)] or list(map(int, ends)) != list(accumulate(sizes)):
        return None
    return Columns(names, [known[kind][0] for kind in kinds], [known[kind][1] for kind in kinds], sizes, metadata)


def _metadata_and_rest(text: str) -> tuple[str, str]:
    """The metadata at the beginning of a header, and the tensors without braces. ValueError where that is not clear."""
    text = text.rstrip(" ")
    if not (text.startswith("{") and text.endswith("}")):
        raise ValueError
    if not text.startswith(_METADATA):
        return "{}", text[1:-1]
    begin = len(_METADATA)
    _, end = json.JSONDecoder().raw_decode(text, begin)
    metadata, rest = text[begin:end], text[end:-1]
    if end == len(text) or (rest and not rest.startswith(',"')):
        raise ValueError
    return metadata, rest[1:]


def _kind(text: str, count_bytes: Callable[[str, Sequence[int]], int]) -> tuple[str, tuple[int, ...], int]:
    """dtype, shape and bytes from what stands between the quote of the one and the bracket of the other."""
    dtype, _, shape = text.partition('","shape":[')
    dims = tuple(map(int, shape.split(","))) if shape else ()
    return dtype, dims, count_bytes(dtype, dims)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without the garbage collector, which would look through millions of new objects again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
