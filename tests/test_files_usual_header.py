"""Headers written as usual are read in bulk: what that reader accepts, the other must read the same way."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from quantrim.files import FormatError
from quantrim.files.safetensors import header as safetensors


def both_readers(header: bytes, size: int) -> tuple[Any, Any]:
    """What the fast reader makes of a header, None for what it leaves alone, and what the other does."""
    fast = safetensors._parse_usual(header, size, Path("x"))
    try:
        return fast, safetensors._parse_any(header, size, Path("x"))
    except FormatError:
        return fast, None


USUAL = [
    b"{}",
    b"{}   ",
    b'{"__metadata__":{}}',
    b'{"__metadata__":{"format":"pt","\\u00e9\\"":"a:\xc3\xa9"},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}} ',
    b'{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"},b:":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]}}',
    b'{"":{"dtype":"F4","shape":[4,0],"data_offsets":[0,0]},"c":{"dtype":"F4","shape":[6],"data_offsets":[0,3]}}',
]
UNUSUAL = [
    b'{"a": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    b'{"a":{"shape":[1],"dtype":"U8","data_offsets":[0,1]}}',
    b'{"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    b'{"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"__metadata__":{"a":"b"}}',
    b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1}}',
]
WRONG = [
    b'{"__metadata__":{}',
    b'{"__metadata__":{},}',
    b'{"__metadata__":{}"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},}',
    b'{,"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}',
    b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}',
    b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
    b'{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}',
    b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[00,1]}}',
    b'{"a":{"dtype":"U8","shape":[1,],"data_offsets":[0,1]}}',
    b'{"a\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    b'{"a":{"dtype":"X","shape":[1],"data_offsets":[0,1]}}',
    b'{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}',
    b'{"__metadata__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    b'{"__metadata__":{"a":"b","a":"b"}}',
    b'{"__metadata__":{"a":"\\ud800"}}',
    b'{"a":{"dtype":"U8","shape":[' + b",".join([b"1"] * 33) + b'],"data_offsets":[0,1]}}',
]


def data_size(header: bytes) -> int:
    return max([0, *(int(end) for end in re.findall(rb",([0-9]{1,9})\]", header))])


@pytest.mark.promise("C60")
@pytest.mark.parametrize("header", USUAL)
def test_usual_headers_are_read_in_bulk(header: bytes) -> None:
    size = 8 + len(header) + data_size(header)
    fast, other = both_readers(header, size)
    assert fast == other and other is not None
    assert both_readers(header, size + 1) == (None, None)


@pytest.mark.promise("C60")
@pytest.mark.parametrize("header", UNUSUAL + WRONG)
def test_other_headers_are_not(header: bytes) -> None:
    fast, other = both_readers(header, 8 + len(header) + data_size(header))
    assert fast is None and (other is None) == (header in WRONG)


@pytest.mark.promise("C60")
def test_the_fast_reader_accepts_nothing_that_the_other_refuses() -> None:
    rng = random.Random(0)
    pieces = [*(bytes([letter]) for letter in b'"{},:[]01-\\\n \xc3'), b"18", b'"a"', b"},"]
    accepted = 0
    for _ in range(40_000):
        header = bytearray(rng.choice(USUAL + WRONG)[1:])
        for _ in range(rng.choice([1, 1, 2])):
            at = rng.randrange(len(header))
            header[at : at + rng.choice([0, 1, 1, 3])] = rng.choice(pieces)
        header[:0] = b"{"  # as all that come here begin
        fast, other = both_readers(bytes(header), 8 + len(header) + data_size(bytes(header)))
        assert fast in (None, other), header
        accepted += fast is not None
    assert accepted > 300
