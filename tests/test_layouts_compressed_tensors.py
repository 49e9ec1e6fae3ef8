"""The bytes of compressed-tensors: beside bit streams of Python integers, there and back, and refused."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_helpers import weights
from numpy.typing import NDArray

import quantrim as qt
from quantrim.layouts import memory
from quantrim.layouts.base import Chunk
from quantrim.layouts.compressed_tensors import INT, PACKED, CompressedTensors, infer, layout_of
from quantrim.layouts.zero_points import pack_zero_points, unpack_zero_points

SCALES = ("float16", "bfloat16", "float32")


def encode(q: qt.QuantizedTensor, scale_dtype: str = "float16", format: str = PACKED) -> dict[str, NDArray[Any]]:
    return memory.encode(layout_of(q, scale_dtype, format), q)


def decode(arrays: dict[str, NDArray[Any]], bits: int | None = None) -> qt.QuantizedTensor:
    """The matrix of these arrays, in the layout that they are found to be in."""
    stored = memory.InMemory(arrays)
    infos = {name: stored.info(name) for name in arrays}
    values = arrays["weight_shape"].tolist() if "weight_shape" in arrays else None
    layout, shape = infer(infos, values, None if bits is None else {bits})  # type: ignore[arg-type]
    found = memory.decode(layout, arrays, shape)
    assert isinstance(found, qt.QuantizedTensor)
    return found


def packed_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """The words that one row of codes becomes."""
    cols = codes.shape[1]
    q = qt.QuantizedTensor(qt.pack(codes, bits), np.ones((1, 1), np.float32), None, bits, cols, (1, cols))
    pieces = CompressedTensors(bits, cols, True, "float16").encoder((1, cols)).encode(q, Chunk(0, 1, 0, cols))
    return next(data for role, _, data in pieces if role == "codes").view("<u4")


def words(codes: NDArray[Any], bits: int) -> list[int]:
    """A row of unsigned codes as 32-bit words of one bit stream, the lowest bit first."""
    stream = sum(int(code) << (k * bits) for k, code in enumerate(codes))
    count = -(-len(codes) * bits // 32)
    return [stream >> (32 * k) & 0xFFFFFFFF for k in range(count)]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", [(1, 8), (5, 24), (33, 40), (70, 96)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_words_are_bit_streams(bits: int, shape: tuple[int, int], symmetric: bool) -> None:
    q = qt.quantize(weights(*shape), bits, group_size=8, symmetric=symmetric, scale_dtype="float16")
    stored = encode(q)
    codes = qt.unpack(q.data, bits, shape[1])
    assert stored["weight_packed"].view(np.uint32).tolist() == [words(row, bits) for row in codes]
    assert stored["weight_shape"].tolist() == list(shape) and stored["weight_shape"].dtype == np.int64
    assert stored["weight_scale"].dtype == np.float16
    assert np.array_equal(stored["weight_scale"].astype(np.float32), q.scales)
    assert ("weight_zero_point" in stored) is not symmetric
    if q.zero_points is not None:  # packed down the rows
        expected = np.array([words(column, bits) for column in q.zero_points.T]).T
        assert stored["weight_zero_point"].view(np.uint32).tolist() == expected.tolist()


def test_check_values_of_the_format() -> None:
    """Signed 4-bit -8..-1 are 0x76543210; 3-bit codes (7k + 3) % 8 are three known words."""
    assert packed_codes(np.arange(8, dtype=np.uint8)[None], 4).tolist() == [[0x76543210]]
    codes = ((7 * np.arange(32) + 3) % 8).astype(np.uint8)[None]
    assert [hex(word) for word in packed_codes(codes, 3)[0]] == ["0x53977053", "0x70539770", "0x97705397"]


@pytest.mark.parametrize("symmetric", [True, False])
def test_int_quantized_is_signed_bytes(symmetric: bool) -> None:
    q = qt.quantize(weights(9, 13), 8, symmetric=symmetric, scale_dtype="float32")
    stored = encode(q, "float32", INT)
    codes = q.data.astype(np.int16) - 128
    assert stored["weight"].dtype == np.int8 and np.array_equal(stored["weight"], codes)
    if q.zero_points is not None:
        assert np.array_equal(stored["weight_zero_point"], q.zero_points.astype(np.int16) - 128)
    again = decode(stored)
    assert np.array_equal(again.data, q.data) and again.symmetric is symmetric


@given(
    bits=st.integers(2, 8),
    rows=st.integers(1, 70),
    groups=st.integers(1, 5),
    group=st.sampled_from([1, 3, 8, 16, 32, 50]),
    symmetric=st.booleans(),
    scale_dtype=st.sampled_from(SCALES),
    channel=st.booleans(),
)
def test_there_and_back(
    bits: int, rows: int, groups: int, group: int, symmetric: bool, scale_dtype: str, channel: bool
) -> None:
    w = weights(rows, groups * group)
    size = "channel" if channel else group
    q = qt.quantize(w, bits, group_size=size, symmetric=symmetric, scale_dtype=scale_dtype)
    for format in (PACKED, INT) if bits == 8 else (PACKED,):
        again = decode(encode(q, scale_dtype, format), bits)
        assert np.array_equal(again.data, q.data) and np.array_equal(again.scales, q.scales)
        assert (again.bits, again.shape, again.symmetric) == (bits, w.shape, symmetric)
        assert np.array_equal(again.dequantize(), q.dequantize())
        if q.zero_points is not None:
            assert again.zero_points is not None and np.array_equal(again.zero_points, q.zero_points)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 100])
def test_zero_points_may_come_in_pieces(bits: int, rows: int) -> None:
    zeros = np.random.default_rng(bits).integers(0, 2**bits, (rows, 3), np.uint8)
    whole = pack_zero_points(zeros, bits)
    pieces = [pack_zero_points(zeros[k : k + 32], bits) for k in range(0, rows, 32)]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert np.array_equal(unpack_zero_points(whole, bits, rows), zeros)


@pytest.mark.promise("A39")
def test_padding_bits_are_written_as_zero_and_not_read() -> None:
    q = qt.quantize(weights(3, 5), 3, scale_dtype="float16")
    stored = encode(q)
    assert (stored["weight_packed"].view(np.uint32) >> 15 == 0).all()
    stored["weight_packed"] |= np.int32(-(2**15))
    assert np.array_equal(decode(stored, 3).dequantize(), q.dequantize())


def test_few_columns_need_the_bits() -> None:
    stored = encode(qt.quantize(weights(4, 8), 4, scale_dtype="float16"))
    with pytest.raises(ValueError, match=r"8 columns, 1 words a row: may be codes of \[1, 2, 3, 4\] bits"):
        decode(stored)
    assert decode(stored, 4).bits == 4
    with pytest.raises(ValueError, match="must have words for codes of 5 bits, not 1 a row"):
        decode(stored, 5)


def packed(**changes: Any) -> dict[str, NDArray[Any]]:
    """The parts of a matrix (6, 64) in groups of 32, with changes; None takes a part away."""
    q = qt.quantize(weights(6, 64), 4, group_size=32, symmetric=False, scale_dtype="float16")
    return {name: a for name, a in (encode(q) | changes).items() if a is not None}


def scales(value: float) -> NDArray[np.float16]:
    good = np.ones((6, 2), np.float16)
    good[4, 1] = value
    return good


@pytest.mark.promise("A38", "B44")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_scale": None}, "weight_scale is missing beside weight_packed"),
        ({"weight_shape": None}, "weight_shape is missing"),
        ({"weight_packed": None}, "weight is missing beside weight_scale"),
        ({"weight_packed": np.zeros((6, 8), np.uint8)}, "weight_packed must be I32, not U8"),
        (
            {"weight_packed": np.zeros(48, np.int32)},
            r"weight_packed must have two dimensions, not shape \(48,\)",
        ),
        (
            {"weight_packed": np.zeros((6, 9), np.int32)},
            "must have words for codes of 1..8 bits, not 9 a row",
        ),
        ({"weight_packed": np.zeros((5, 8), np.int32)}, "weight_shape must be the 5 rows"),
        ({"weight_scale": np.ones((6, 2), np.int8)}, "weight_scale must be F16 or BF16 or F32"),
        (
            {"weight_scale": np.ones((6, 3), np.float16)},
            "6 rows of one scale, or of a number that divides 64",
        ),
        ({"weight_scale": np.ones((5, 2), np.float16)}, r"not shape \(5, 2\)"),
        ({"weight_scale": np.ones((6, 0), np.float16)}, r"not shape \(6, 0\)"),
        ({"weight_scale": scales(np.nan)}, "weight_scale must be finite, not nan at flat index 9"),
        ({"weight_scale": scales(np.inf)}, "weight_scale must be finite, not inf at flat index 9"),
        ({"weight_scale": scales(-np.inf)}, "weight_scale must be finite, not -inf at flat index 9"),
        ({"weight_shape": np.array([6.0, 64.0])}, "weight_shape must be two I64, not F64"),
        ({"weight_shape": np.array([6, 64, 1])}, "weight_shape must be two I64"),
        ({"weight_shape": np.array([6, -64])}, r"not \(6, -64\)"),
        ({"weight_shape": np.array([6, 2**40])}, "must have words for codes of 1..8 bits"),
        ({"weight_zero_point": np.zeros((2, 2), np.int32)}, r"weight_zero_point .* must have shape \(1, 2\)"),
        ({"weight_zero_point": np.zeros((1, 1), np.int32)}, r"weight_zero_point .* must have shape \(1, 2\)"),
    ],
)
def test_tensors_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    assert decode(packed()).shape == (6, 64)
    with pytest.raises(ValueError, match=message):
        decode(packed(**changes))


@pytest.mark.parametrize(
    ("q", "options", "message"),
    [
        (qt.quantize(weights(2, 3, 4)), {}, "must be a matrix"),
        (qt.quantize(weights(4, 9), group_size=8), {}, "divide the 9 columns, not 8"),
        (qt.quantize(weights(4, 8), group_size="tensor"), {}, "divide the 8 columns, not 'tensor'"),
        (qt.quantize(weights(4, 8)), {}, "scales must be float16 values"),
        (qt.quantize(weights(4, 8)), {"scale_dtype": "float8"}, "scale_dtype must be one of"),
        (qt.quantize(weights(4, 8), 4), {"scale_dtype": "float32", "format": INT}, "format must be one of"),
    ],
)
def test_what_the_layout_cannot_hold(q: qt.QuantizedTensor, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(q, **options)


def test_bfloat16_scales() -> None:
    q = qt.quantize(weights(4, 64), 4, group_size=16, scale_dtype="bfloat16")
    stored = encode(q, "bfloat16")
    assert stored["weight_scale"].dtype == np.dtype(ml_dtypes.bfloat16)
    assert np.array_equal(decode(stored).scales, q.scales)
