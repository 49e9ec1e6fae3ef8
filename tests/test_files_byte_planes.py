"""Byte planes of one chunk: the definition, every dtype, and frames that lie."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zstandard

from quantrim.files import DTYPES
from quantrim.files.byteplanes.planes import Coder, join, plane_count, split

ROTATED = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.complex64)
TYPES = [np.dtype(np.uint8) if dtype is None else dtype for _, dtype in DTYPES.values()]


def noise(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(count).integers(0, 256, count, np.uint8)


def defined(data: bytes, dtype: np.dtype[Any]) -> list[list[int]]:
    """Byte k of each value, rotated left by one bit where values are floats, in plain Python."""
    width = 4 if dtype == np.complex64 else dtype.itemsize
    planes: list[list[int]] = [[] for _ in range(width)]
    for begin in range(0, len(data), width):
        value = int.from_bytes(data[begin : begin + width], "little")
        if dtype in [np.dtype(t) for t in ROTATED]:
            value = (value << 1 | value >> (8 * width - 1)) % (1 << 8 * width)
        for k in range(width):
            planes[k].append(value >> 8 * k & 255)
    return planes


@pytest.mark.parametrize("dtype", TYPES, ids=list(DTYPES))
@pytest.mark.parametrize("values", [1, 7, 1000])
def test_planes_are_as_defined_and_come_back(dtype: np.dtype[Any], values: int) -> None:
    data = noise(values * dtype.itemsize)
    planes = split(data, dtype)
    assert planes.tolist() == defined(data.tobytes(), dtype)
    assert planes.shape[0] == plane_count(dtype)
    assert join(planes, dtype).tobytes() == data.tobytes()


def test_the_exponent_has_a_plane_to_itself() -> None:
    for dtype in (np.float32, ml_dtypes.bfloat16):
        values = np.array([1.0, -1.0, 1.99, -1.5, 1.25], dtype)
        assert set(split(values.view(np.uint8), np.dtype(dtype))[-1].tolist()) == {127}


@pytest.mark.parametrize("dtype", TYPES, ids=list(DTYPES))
@pytest.mark.parametrize("kind", ["noise", "zeros", "half"])
def test_every_chunk_comes_back(dtype: np.dtype[Any], kind: str) -> None:
    data = np.zeros(4096, np.uint8) if kind == "zeros" else noise(4096)
    if kind == "half":
        data = np.ascontiguousarray(join(split(data, dtype) & np.uint8(15), dtype))
    coder = Coder()
    sizes, stored = coder.encode(data, dtype)
    raw = np.frombuffer(b"".join(bytes(piece) for piece in stored), np.uint8)
    assert sum(sizes) == raw.size <= data.size and len(sizes) == plane_count(dtype)
    assert (raw.size == data.size) == (kind == "noise")
    if kind == "noise":
        assert raw.tobytes() == data.tobytes()
    assert coder.decode(raw, sizes, data.size, dtype).tobytes() == data.tobytes()


def test_planes_that_do_not_shrink_are_kept_beside_those_that_do() -> None:
    values = noise(8192).view(np.uint32) & 0x807FFFFF | 0x3F800000
    sizes, stored = Coder().encode(values.view(np.uint8), np.dtype(np.float32))
    assert sizes[1:3] == [2048, 2048] and sizes[3] < 40
    assert bytes(stored[1]) == bytes(split(values.view(np.uint8), np.dtype(np.float32))[1])


FRAME = zstandard.ZstdCompressor().compress(bytes(1000))


@pytest.mark.promise("C86", "C92")
@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"", "cannot read a frame of 0 bytes"),
        (FRAME[:3], "cannot read a frame of 3 bytes"),
        (FRAME[:-1], "cannot read a frame"),
        (FRAME + b"x", "unused data"),
        (FRAME + FRAME, "unused data"),
        (b"XXXX" + FRAME[4:], "cannot read a frame"),
        (zstandard.ZstdCompressor().compress(bytes(999)), "says that it holds 999 bytes, not 1000"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000)), "says that it holds"),
        # a content size of 2^62: nothing may be allocated from it
        (b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + b"\x01\x00\x00", f"holds {1 << 62} bytes"),
        # a content size of 1000, then a block of 128 KiB of one byte
        (b"\x28\xb5\x2f\xfd\x60" + (1000 - 256).to_bytes(2, "little") + b"\x03\x00\x10" + b"a", "cannot read a frame"),
        # a window of 2^41 bytes
        (b"\x28\xb5\x2f\xfd\x40\xf8" + (1000 - 256).to_bytes(2, "little") + b"\x01\x00\x00", "cannot read a frame"),
    ],
    ids=range(11),
)  # fmt: skip
def test_wrong_frames_are_refused(frame: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Coder().decompress(frame, 1000)
    assert Coder().decompress(FRAME, 1000) == bytes(1000)


def test_without_zstandard_an_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ValueError, match=r"pip install 'quantrim\[lossless\]'"):
        Coder()
