"""Codes into bits: every width and length, against a loop over single bits."""

from __future__ import annotations

import numpy as np
import pytest
from functions import Array, bits_of

import quantrim as qt

BITS = pytest.mark.parametrize("bits", range(1, 9))


def codes_of(seed: int, shape: tuple[int, ...], bits: int) -> Array:
    return np.random.default_rng([seed, bits]).integers(0, 2**bits, shape).astype(np.uint8)


def pack_bit_by_bit(row: Array, bits: int) -> list[int]:
    packed = [0] * -(-len(row) * bits // 8)
    for i, code in enumerate(row.tolist()):
        for b in range(bits):
            packed[(i * bits + b) // 8] |= (code >> b & 1) << (i * bits + b) % 8
    return packed


@BITS
def test_pack_and_unpack_every_length(bits: int) -> None:
    for n in range(71):
        codes = codes_of(n, (2, n), bits)
        packed = qt.pack(codes, bits)
        assert packed.tolist() == [pack_bit_by_bit(row, bits) for row in codes]
        assert bits_of(qt.unpack(packed, bits, n)) == bits_of(codes)


@BITS
@pytest.mark.parametrize("shape", [(1_000_001,), (3, 100_003), (5, 7, 1001), (4099, 3)])
def test_pack_and_unpack_large(bits: int, shape: tuple[int, ...]) -> None:
    """Beyond one tile and one thread; the first and last rows bit by bit."""
    codes = codes_of(1, shape, bits)
    packed = qt.pack(codes, bits)
    assert bits_of(qt.unpack(packed, bits, shape[-1])) == bits_of(codes)
    for row, want in ((codes.reshape(-1, shape[-1])[k], packed.reshape(-1, packed.shape[-1])[k]) for k in (0, -1)):
        start = max(0, len(row) - 800) // 8 * 8
        assert want[start * bits // 8 :].tolist() == pack_bit_by_bit(row[start:], bits)


@pytest.mark.promise("A39")
@BITS
def test_padding_bits_change_nothing(bits: int) -> None:
    """Bits behind the last code of a row are 0 when packed and ignored when read."""
    for n in range(1, 18):
        codes = codes_of(n, (3, n), bits)
        packed = qt.pack(codes, bits)
        used = n * bits % 8
        if used:
            assert not (packed[:, -1] >> used).any()
            packed[:, -1] |= 0xFF << used & 0xFF
        assert bits_of(qt.unpack(packed, bits, n)) == bits_of(codes)
        scales = np.ones((3, 1), np.float32)
        q = qt.QuantizedTensor(packed, scales, None, bits, "channel", (3, n))
        assert (q.dequantize() == codes.astype(np.float32) - 2 ** (bits - 1)).all()


@pytest.mark.promise("A38")
@BITS
def test_packed_rows_of_another_length(bits: int) -> None:
    needed = -(-11 * bits // 8)
    for length in {0, needed - 1, needed + 1, 2 * needed} - {needed}:
        with pytest.raises(ValueError, match=f"rows of {needed} bytes for 11 codes of {bits} bits, not {length}"):
            qt.unpack(np.zeros((2, length), np.uint8), bits, 11)


@pytest.mark.promise("A18")
@pytest.mark.parametrize("bits", range(1, 8))
def test_codes_that_do_not_fit_are_refused(bits: int) -> None:
    for position in (0, 7, 8, 31, 32, 69):
        for code in (2**bits, 255):
            codes = codes_of(2, (2, 35), bits)
            codes.reshape(-1)[position] = code
            with pytest.raises(ValueError, match=f"codes must be below {2**bits}, not {code} at flat index {position}"):
                qt.pack(codes, bits)


def test_pack_insists_on_uint8() -> None:
    for wrong in (np.zeros(4, np.int8), np.zeros(4, np.int64), [1, 2, 3], np.zeros(4, np.bool_)):
        with pytest.raises(TypeError, match="codes must be uint8, not"):
            qt.pack(wrong, 4)
        with pytest.raises(TypeError, match="packed must be uint8, not"):
            qt.unpack(wrong, 8, 4)
