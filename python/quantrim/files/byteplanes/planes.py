"""Values of any dtype as byte planes: all first bytes together, then all second ones, ..., each compressed by itself.

The bytes of a weight differ in kind: the exponents of a tensor are few and skewed, the ends of its mantissas look like
chance. Of floats the sign is moved to the other end of the value first, so that the exponent has a byte to itself:

    plane k = byte k of the value, little endian, rotated left by one bit (floats) or as it is (all else)

Planes are the "shuffle" of Blosc (Alted 2010, "Why modern CPUs are starving and what can be done about it") and HDF5;
frames are zstandard (Collet and Kucherawy 2021, RFC 8878). A plane that would not shrink is kept as it is; a chunk
none of whose planes shrinks is kept as it was. What is restored is exact for every version of zstandard; the bytes of
a frame may change between versions.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = ["Coder", "Coders", "checksum", "is_kept", "join", "plane_count", "split"]

Bytes = NDArray[np.uint8]

# A table of 64 places finds runs and little else: in planes of weights, chance matches cost more than they save. MiniLM
# as bfloat16 becomes 1.50x smaller, at level 1 as it is 1.47x, at level 9 1.44x.
_PARAMETERS = {"min_match": 7, "hash_log": 6, "window_log": 17}
_WINDOW = 8 << 20  # bytes that a frame may look back on, the limit that RFC 8878 advises
_FLOATS = {
    np.dtype(t): width
    for t, width in (
        (np.float16, 2), (ml_dtypes.bfloat16, 2), (np.float32, 4), (np.float64, 8), (np.complex64, 4),
    )
}  # fmt: skip


def plane_count(dtype: np.dtype[Any]) -> int:
    """Planes of a dtype: the bytes of a value, or of half a complex one."""
    return _FLOATS.get(dtype, dtype.itemsize)


def split(data: Bytes, dtype: np.dtype[Any]) -> Bytes:
    """data: (count * planes,) uint8, values in little endian. Returns (planes, count) uint8.

    >>> split(np.array([1.0, -1.5], "<f4").view(np.uint8), np.dtype(np.float32)).tolist()
    [[0, 1], [0, 0], [0, 128], [127, 127]]
    """
    width = plane_count(dtype)
    words = data.view(f"<u{width}")
    if dtype in _FLOATS:
        sign = words >> (8 * width - 1)
        words = words << 1
        words |= sign
    planes = np.empty((width, words.size), np.uint8)
    for plane, column in zip(planes, words.view(np.uint8).reshape(-1, width).T, strict=True):
        plane[:] = column
    return planes


def join(planes: Sequence[Bytes], dtype: np.dtype[Any]) -> Bytes:
    """What was split.

    >>> data = np.arange(8, dtype=np.uint8)
    >>> join(split(data, np.dtype(np.float16)), np.dtype(np.float16)).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    width = plane_count(dtype)
    data = np.empty((planes[0].size, width), np.uint8)
    for plane, column in zip(planes, data.T, strict=True):
        column[:] = plane
    words = data.reshape(-1).view(f"<u{width}")
    if dtype in _FLOATS:
        sign = words << (8 * width - 1)
        words >>= 1
        words |= sign
    return words.view(np.uint8)


def checksum(data: Bytes) -> int:
    """CRC-32."""
    return zlib.crc32(data.data)


def is_kept(sizes: Sequence[int], nbytes: int) -> bool:
    """Whether a chunk is stored as it was: none of its planes shrank."""
    return sum(sizes) == nbytes


class Coder:
    """Chunks to and from planes. One for each thread: zstandard's contexts are no place to meet.

    ValueError where zstandard is not installed.
    """

    def __init__(self) -> None:
        zstandard = self._zstandard = _import()
        parameters = zstandard.ZstdCompressionParameters.from_level(1, **_PARAMETERS)
        self._compressor = zstandard.ZstdCompressor(compression_params=parameters)
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)

    def encode(self, data: Bytes, dtype: np.dtype[Any]) -> tuple[list[int], list[Bytes | bytes]]:
        """The bytes of each plane, and what to store, one after the other."""
        planes = split(data, dtype)
        stored: list[Bytes | bytes] = []
        for plane in planes:
            frame = self.compress(plane)
            stored.append(frame if len(frame) < plane.size else plane)
        sizes = [len(piece) for piece in stored]
        return sizes, [data] if is_kept(sizes, data.size) else stored

    def decode(self, stored: Bytes, sizes: Sequence[int], nbytes: int, dtype: np.dtype[Any]) -> Bytes:
        """The `nbytes` bytes that were encoded. stored: exactly sum(sizes) bytes.

        ValueError where they are no such planes; memory for `nbytes` twice, whatever a frame says of itself.
        """
        if is_kept(sizes, nbytes):
            return stored
        count = nbytes // len(sizes)
        planes, begin = [], 0
        for size in sizes:
            piece = stored[begin : begin + size]
            planes.append(piece if size == count else np.frombuffer(self.decompress(piece, count), np.uint8))
            begin += size
        return join(planes, dtype)

    def compress(self, data: Bytes | bytes) -> bytes:
        """One frame, which says how long its content is."""
        return bytes(self._compressor.compress(data))

    def decompress(self, frame: Bytes | bytes, count: int) -> bytes:
        """The content of one frame, `count` bytes. ValueError for anything else."""
        try:
            said = self._zstandard.get_frame_parameters(frame)
            if said.content_size != count:
                raise ValueError(f"a frame says that it holds {said.content_size} bytes, not {count}")
            data = self._decompressor.decompress(frame, max_output_size=count, allow_extra_data=False)
        except self._zstandard.ZstdError as error:
            raise ValueError(f"zstandard cannot read a frame of {len(frame)} bytes: {error}") from None
        if len(data) != count:
            raise ValueError(f"a frame holds {len(data)} bytes, not {count}")
        return bytes(data)


class Coders(threading.local):
    """Whoever asks for the `coder` gets that of the own thread."""

    def __init__(self) -> None:
        self.coder = Coder()


def _import() -> Any:
    try:
        import zstandard
    except ImportError as error:
        text = f"byte planes need zstandard ({error}): pip install 'quantrim[lossless]'"
        raise ValueError(text) from None
    return zstandard
