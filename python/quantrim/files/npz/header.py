"""The header of a .npy file, or of a member of an .npz file: dtype, order and shape.

Dtypes that numpy itself has no word for (bfloat16, the floats of 8 bits) are void to numpy: `<V2`, `<V1`. As there is
but one such dtype of two bytes, V2 is read as bfloat16; V1 is read where the metadata of an .npz of ours says which it
is. `numpy.load(...)[name].view(ml_dtypes.bfloat16)` gives them back to Python.
"""

from __future__ import annotations

import ast
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..disk.errors import FormatError
from ..tensor_info import DIMS_LIMIT, DTYPES, are_sizes, count_bytes

MAGIC = b"\x93NUMPY"
HEADER_LIMIT = 10_000  # bytes, as numpy has it: Python may take long over more
ALIGNMENT = 64
_PLAIN = re.compile(r"([<>=|])([biufcV])([0-9]{1,2})")
_DESCRS = {  # word -> descr, as numpy.save writes it, but what numpy.load would not read
    word: f"<V{dtype.itemsize}" if dtype.kind == "V" or dtype.str == "<f1" else dtype.newbyteorder("<").str
    for word, (_, dtype) in DTYPES.items()
    if dtype is not None
}
_WORDS = {descr[1:]: word for word, descr in _DESCRS.items() if descr != "<V1"} | {"f1": "F8_E5M2"}


@dataclass(frozen=True)
class Header:
    """dtype: a word of DTYPES. swapped: big endian. fortran: the first index runs fastest. size: of the header."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    swapped: bool
    fortran: bool
    size: int


def parse_header(raw: bytes, path: Path, name: str, word: str | None = None) -> Header:
    """Return what the first bytes of a .npy file say. FormatError for anything but one array of plain numbers.

    raw: 12 + HEADER_LIMIT bytes of it, or all. word: the dtype of void elements, where it is known.
    """

    def wrong(problem: str, found: object) -> FormatError:
        return FormatError(problem, path=path, tensor=name, found=found)

    version = raw[6:8]
    if raw[:6] != MAGIC or version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise wrong("must begin as a .npy file of version 1, 2 or 3 does", raw[:8])
    begin = 10 if version == b"\1\0" else 12
    length = int.from_bytes(raw[8:begin], "little")
    if length > HEADER_LIMIT or begin + length > len(raw):
        raise wrong(f"the .npy header must be at most {HEADER_LIMIT} bytes, and all there", length)
    text = raw[begin : begin + length]
    try:
        said = _literal(text.decode("utf-8" if version == b"\3\0" else "latin-1"))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise wrong("the .npy header must be a dictionary of descr, fortran_order and shape", text) from None
    dtype, swapped = _dtype(said["descr"], word, wrong)
    shape, fortran = said["shape"], said["fortran_order"]
    if not isinstance(shape, tuple) or not are_sizes(shape) or len(shape) > DIMS_LIMIT:
        raise wrong(f"shape must be a tuple of at most {DIMS_LIMIT} sizes", shape)
    if not isinstance(fortran, bool):
        raise wrong("fortran_order must be True or False", fortran)
    try:
        nbytes = count_bytes(dtype, shape)
    except ValueError as error:
        raise FormatError(str(error), path=path, tensor=name) from None
    return Header(dtype, shape, nbytes, swapped, fortran and len(shape) > 1, begin + length)


def _literal(text: str) -> dict[str, Any]:
    """Evaluate a dictionary of literals that has exactly the three keys, each once."""
    node = ast.parse(text.strip(" \n"), mode="eval").body
    if not isinstance(node, ast.Dict) or len(node.keys) != 3:
        raise ValueError
    value = ast.literal_eval(node)
    if set(value) != {"descr", "fortran_order", "shape"}:
        raise ValueError
    return dict(value)


def _dtype(descr: object, word: str | None, wrong: Any) -> tuple[str, bool]:
    """Return the word for a descr, and whether its bytes are swapped."""
    if isinstance(descr, list):
        raise wrong("must be an array of numbers, not of records with fields", descr)
    match = _PLAIN.fullmatch(descr) if isinstance(descr, str) else None
    if isinstance(descr, str) and descr.lstrip("<>=|")[:1] == "O":
        raise wrong("holds Python objects, which are a pickle: loading one can run any program", descr)
    if match is None:
        raise wrong("must be an array of numbers", descr)
    order, kind, width = match.groups()
    if kind == "V" and word is not None and DTYPES[word][0] == 8 * int(width):
        return word, False
    found = _WORDS.get(f"{kind}{width}")
    if found is None:
        which = f"; of {width} bytes each, it does not say of what" if kind == "V" else ""
        raise wrong(f"must be of a dtype that quantrim has{which}", descr)
    return found, order == ">" and int(width) > 1


def encode_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the header of an array in C order, little endian, as long as a multiple of 64 bytes."""
    if dtype not in _DESCRS:
        raise ValueError(f"dtype must be one of whole bytes to be in a .npy file, not {dtype}")
    text = f"{{'descr': {_DESCRS[dtype]!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    room = len(text) + 1 + -(10 + len(text) + 1) % ALIGNMENT
    return MAGIC + b"\1\0" + struct.pack("<H", room) + f"{text:<{room - 1}}\n".encode()
