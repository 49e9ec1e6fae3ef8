"""Grids of any values: tables against their specifications, binary and ternary against every other choice."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from functions import Array, bits_of

import quantrim as qt

ALL = ["nf4", "fp4", "mxfp4", "mxint8", "binary", "ternary"]
MAX = float(np.finfo(np.float32).max)
VALUES = (-3.0, -1.25, -0.5, 0.0, 0.1, 0.5, 2.0, 7.0)
TABLE = np.array(VALUES, np.float32)


def weights(seed: int, rows: int = 7, cols: int = 96) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def row(values: list[float]) -> Array:
    return np.array([values], np.float32)


def exact(x: Any) -> Fraction:
    return Fraction(float(x))


def swapped(data: Array) -> Array:
    """The first of two codes in the high half of a byte, as bitsandbytes has it."""
    return data >> 4 | data << 4


# Tables

WAVE = ((np.arange(64) * 2654435761 % 2**32 / 2**32 - 0.5) * 0.2).astype(np.float32)[None]


@pytest.mark.parametrize(
    "name,packed",
    [
        ("nf4", "0a2e61c3f91d50b3e71c4f92e60b3e81d50a2e71c4f91d50b3e71d4fa2e61c3f"),
        ("fp4", "b7d29a4c36a2eb4d21a5f36d2eb4c31a5fb7d29a5c36a2eb4d21a5f37d29b4c3"),
    ],
)
def test_check_values_of_bitsandbytes(name: str, packed: str) -> None:
    """The bytes and absmax of bitsandbytes 0.50.2 for these 64 weights."""
    q = qt.quantize_codebook(WAVE, name)
    assert swapped(q.data).tobytes().hex() == packed
    assert q.scales.tobytes().hex() == "cdcccc3d"


def test_every_value_of_a_table_is_kept() -> None:
    for name in ("nf4", "fp4", "mxfp4"):
        book = qt.quantize_codebook(np.ones((1, 1), np.float32), name).codebook
        assert book is not None
        for size in (1.0, 0.5, 2.0**-30, 2.0**-120, 2.0**100):
            group = "tensor" if name != "mxfp4" else None
            q = qt.quantize_codebook(book[None] * np.float32(size), name, group_size=group)
            assert (q.dequantize() == book[None] * np.float32(size)).all()


def nearest(values: Array, x: Fraction) -> int:
    """The nearest of ascending values; a tie goes to the lower one."""
    return min(range(len(values)), key=lambda i: (abs(exact(values[i]) - x), i))


@pytest.mark.promise("A12")
def test_nearest_value_and_ties_to_the_lower_one() -> None:
    """At middles, and one float32 beside them; 0.1 and 0.5 have no float32 middle."""
    middles = ((TABLE[1:].astype(np.float64) + TABLE[:-1]) / 2).astype(np.float32)
    x = np.concatenate([np.nextafter(middles, np.float32(s * 99)) for s in (-1, 1)] + [middles, TABLE, [-99, 99]])
    q = qt.quantize_codebook(x[None], TABLE, scales=1.0, group_size="channel")
    assert q.codes()[0].tolist() == [nearest(TABLE, exact(v)) for v in x]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64, 100, 128, 129, 200, 256])
def test_values_of_any_number(count: int) -> None:
    """Codes of the bits needed; the nearest of normal values, many of them close together."""
    rng = np.random.default_rng(count)
    values = np.unique(rng.standard_normal(count + 50).astype(np.float32))[:count]
    w = rng.standard_normal((2, 150)).astype(np.float32)
    q = qt.quantize_codebook(w, values, scales=1.0)
    assert q.bits == max(1, math.ceil(math.log2(count)))
    assert q.data.shape == (2, -(-150 * q.bits // 8))
    assert q.codes().tolist() == [[nearest(values, exact(x)) for x in r] for r in w]


def test_absmax_scale_maps_the_largest_weight_to_the_largest_value() -> None:
    q = qt.quantize_codebook(weights(1), VALUES, group_size=10)
    for r, g in np.ndindex(q.scales.shape):
        top = np.abs(weights(1)[r, 10 * g : 10 * g + 10]).max()
        assert q.scales[r, g] == np.float32(top / np.float32(7))


def test_values_far_apart_and_close() -> None:
    """Middles that float64 cannot hold: 1e30 + 1e-30, and subnormal neighbours."""
    for values in ([1e-30, 1e30], [-1e30, 1.0], [1e-45, 3e-45], [0.0, 1e-45], [-MAX, MAX], [MAX / 2, MAX]):
        v = np.array(values, np.float32)
        middle = np.float32((float(v[0]) + float(v[1])) / 2)
        x = np.array([np.nextafter(middle, np.float32(-np.inf)), middle, np.nextafter(middle, np.float32(np.inf))])
        got = qt.quantize_codebook(x[None], v, scales=1.0, group_size="tensor").codes()[0]
        assert got.tolist() == [nearest(v, exact(t)) for t in x]


# OCP MX


def mx_scale(group: Array, largest_exponent: int) -> Fraction:
    top = max(abs(exact(x)) for x in group)
    if top == 0:
        return Fraction(0)
    exponent = math.frexp(float(top))[1] - 1 - largest_exponent
    return Fraction(2) ** max(exponent, -127)


MX_WEIGHTS = [
    weights(2, 4, 96),
    weights(3, 4, 100) * np.float32(1e-38),
    weights(4, 4, 33) * np.float32(1e38),
    np.array([[k / 8 for k in range(-64, 65)]], np.float32),
    np.array([[1e-45, 0, -1e-44] + [0] * 30], np.float32),
]


@pytest.mark.promise("A12")
@pytest.mark.parametrize("w", MX_WEIGHTS, ids=["normal", "subnormal", "huge", "ties", "tiny"])
def test_mxfp4_is_that_of_ml_dtypes(w: Array) -> None:
    """float4_e2m1fn rounds half to even and saturates. Its -0 is our 0."""
    q = qt.quantize_codebook(w, "mxfp4")
    codes = q.codes()
    for r in range(len(w)):
        for g in range(q.scales.shape[1]):
            group = w[r, 32 * g : 32 * g + 32]
            scale = mx_scale(group, 2)
            assert exact(q.scales[r, g]) == scale
            if scale:
                ratio = np.array([float(exact(x) / scale) for x in group]).astype(ml_dtypes.float4_e2m1fn)
                want = ratio.view(np.uint8)
                got = codes[r, 32 * g : 32 * g + 32]
                assert np.where(want == 8, 0, want).tolist() == got.tolist()
                assert exact(np.float32(q.scales[r, g]).astype(ml_dtypes.float8_e8m0fnu)) == scale


@pytest.mark.promise("A12", "A14")
@pytest.mark.parametrize("w", MX_WEIGHTS, ids=["normal", "subnormal", "huge", "ties", "tiny"])
def test_mxint8_by_exact_fractions(w: Array) -> None:
    """Elements k / 64, half to even, within -127..127; stored scales are those of k."""
    q = qt.quantize_codebook(w, "mxint8")
    assert (q.bits, q.group_size, q.codebook) == (8, 32, None)
    for r in range(len(w)):
        for g in range(q.scales.shape[1]):
            group = w[r, 32 * g : 32 * g + 32]
            scale = mx_scale(group, 0)
            assert exact(q.scales[r, g]) * 64 == scale
            want = [max(-127, min(127, round(exact(x) / scale * 64))) if scale else 0 for x in group]
            assert q.codes()[r, 32 * g : 32 * g + 32].tolist() == want


def test_mx_decodes_by_a_table_of_bits() -> None:
    """A decoder of its own: sign, two bits of exponent with bias 1, one of mantissa."""
    q = qt.quantize_codebook(weights(5), "mxfp4")
    parts = q.codes().reshape(-1), np.repeat(q.scales, 32), q.dequantize().reshape(-1)
    for code, scale, got in zip(*parts, strict=True):
        sign, exponent, mantissa = int(code) >> 3, int(code) >> 1 & 3, int(code) & 1
        size = (1 + mantissa / 2) * 2.0 ** (exponent - 1) if exponent else mantissa / 2
        assert got == (-size if sign else size) * scale


# Binary and ternary


def squared_error(w: Array, q: qt.QuantizedTensor) -> float:
    return float(((w.astype(np.float64) - q.dequantize()) ** 2).sum())


def test_binary_scale_is_the_best() -> None:
    """No other scale has a smaller squared error; the mean magnitude is that of exact fractions, rounded twice."""
    w = weights(6, 5, 70)
    q = qt.quantize_codebook(w, "binary", group_size=32)
    assert q.bits == 1
    assert q.data.shape == (5, 9)
    for r, g in np.ndindex(q.scales.shape):
        group = w[r, 32 * g : 32 * g + 32]
        mean = sum(abs(exact(x)) for x in group) / len(group)
        assert abs(exact(q.scales[r, g]) - mean) <= mean / 2**23
        signs = np.where(group < 0, -1, 1)
        error = [float(((group - signs * s) ** 2).sum()) for s in q.scales[r, g] * np.linspace(0.9, 1.1, 21)]
        assert int(np.argmin(error)) == 10
    assert (q.dequantize() == np.where(w < 0, -1, 1) * np.repeat(q.scales, 32, -1)[:, :70]).all()


@pytest.mark.promise("A17")
def test_zero_is_plus_one_in_binary() -> None:
    q = qt.quantize_codebook(row([0.0, -0.0, 1e-45, -1e-45, 3e30]), "binary", group_size="tensor")
    assert q.codes().tolist() == [[1, 1, 1, 0, 1]]


def best_ternary_error(group: list[float]) -> float:
    """The least squared error over all 3**n choices of signs, each with its own best scale."""
    least = math.inf
    for signs in itertools.product((-1, 0, 1), repeat=len(group)):
        size = sum(map(abs, signs))
        scale = max(0.0, sum(s * x for s, x in zip(signs, group, strict=True)) / size) if size else 0.0
        least = min(least, sum((x - s * scale) ** 2 for s, x in zip(signs, group, strict=True)))
    return least


@pytest.mark.parametrize("seed", range(20))
def test_ternary_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = [
        rng.standard_normal((1, 7)),
        rng.laplace(size=(1, 8)),
        rng.integers(-3, 4, (1, 7)),
        np.sign(rng.standard_normal((1, 6))),
    ][seed % 4].astype(np.float32)
    q = qt.quantize_codebook(w, "ternary", group_size="channel")
    assert set(q.codes().reshape(-1)) <= {-1, 0, 1}
    assert squared_error(w, q) <= best_ternary_error(w[0].tolist()) * (1 + 1e-6) + 1e-12


def test_ternary_beats_the_usual_estimate() -> None:
    """0.7 of the mean magnitude as threshold, the mean above it as scale (Li & Liu 2016)."""
    for w in (weights(7, 1, 5000), np.random.default_rng(7).laplace(size=(1, 5000)).astype(np.float32)):
        q = qt.quantize_codebook(w, "ternary", group_size="tensor")
        kept = np.abs(w) > 0.7 * np.abs(w).mean()
        estimate = float(((w - np.sign(w) * kept * np.abs(w)[kept].mean()) ** 2).sum())
        assert squared_error(w, q) < estimate


@pytest.mark.parametrize("size", [2047, 2048, 2049, 70_000])
def test_ternary_in_sets_that_are_sorted_by_digits(size: int) -> None:
    w = weights(8, 1, size)
    q = qt.quantize_codebook(w, "ternary", group_size="tensor")
    with qt.use_isa("reference"):
        assert bits_of(q) == bits_of(qt.quantize_codebook(w, "ternary", group_size="tensor"))


# Groups and scales


@pytest.mark.promise("A21", "A22")
@pytest.mark.parametrize("name", ["nf4", "binary", "ternary", VALUES], ids=str)
@pytest.mark.parametrize("cols", [1, 2, 31, 32, 33, 97])
@pytest.mark.parametrize("group", [1, 7, 32, 100])
def test_groups_are_quantized_on_their_own(group: int, cols: int, name: Any) -> None:
    w = weights(cols, 3, cols)
    q = qt.quantize_codebook(w, name, group_size=group)
    for g in range(q.scales.shape[1]):
        columns = slice(g * group, (g + 1) * group)
        alone = qt.quantize_codebook(w[:, columns], name, group_size="channel")
        assert bits_of(q.codes()[:, columns]) == bits_of(alone.codes())
        assert (q.scales[:, g] == alone.scales[:, 0]).all()
        assert (q.dequantize()[:, columns] == alone.dequantize()).all()


@pytest.mark.parametrize("name", ["nf4", "fp4", "binary", "ternary", VALUES], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (5, 1), (5, 70), (2, 3, 35)])
def test_tensor_and_channel_are_one_group_each(shape: tuple[int, ...], name: Any) -> None:
    w = weights(1, 1, math.prod(shape)).reshape(shape)
    tensor = qt.quantize_codebook(w, name, group_size="tensor")
    flat = qt.quantize_codebook(w.reshape(1, -1), name, group_size="channel")
    assert tensor.scales.shape == (1,) * len(shape)
    # the mean of all is one of row sums there, so that its last bit may differ
    assert abs(tensor.scales.item() - flat.scales.item()) <= flat.scales.item() * (2.0**-23 if name == "binary" else 0)
    assert tensor.codes().tobytes() == flat.codes().tobytes()
    channel = qt.quantize_codebook(w, name, group_size="channel")
    assert channel.scales.shape == (*shape[:-1], 1)
    assert bits_of(channel.codes()) == bits_of(qt.quantize_codebook(w, name, group_size=shape[-1]).codes())


@pytest.mark.promise("A3", "A4")
@pytest.mark.parametrize("name", [*ALL, VALUES], ids=str)
def test_zero_groups(name: Any) -> None:
    """Scale 0, exact zeros, the same bytes for either zero; neighbours are not disturbed."""
    w = weights(9, 3, 96)
    w[1, 32:64] = 0
    w[2] = -0.0
    q = qt.quantize_codebook(w, name, group_size=32)
    assert q.scales[1, 1] == 0 and (q.scales[2] == 0).all() and (q.scales[0] > 0).all()
    assert (q.dequantize()[1, 32:64] == 0).all() and (q.dequantize()[2] == 0).all()
    assert bits_of(q) == bits_of(qt.quantize_codebook(w + 0, name, group_size=32))


@pytest.mark.promise("A5", "A6", "A8", "A10")
@pytest.mark.parametrize("name", [*ALL, VALUES], ids=str)
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-38, 1e-30, 1e30, 1e38])
def test_tiny_and_huge(name: Any, size: float) -> None:
    """Scales stay finite, nothing becomes NaN, and no weight decodes further away than absmax."""
    w = weights(10, 2, 64).clip(-3, 3) * np.float32(size)
    w[1, 5] = 3e38
    q = qt.quantize_codebook(w, name, group_size=32)
    back = q.dequantize()
    assert np.isfinite(q.scales).all() and np.isfinite(back).all()
    top = np.abs(w).reshape(2, 2, 32).max(-1).repeat(32, -1)
    assert (np.abs(back.astype(np.float64) - w) <= top.astype(np.float64) * 2).all()


@pytest.mark.promise("A8")
@pytest.mark.parametrize("scale_dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["nf4", "binary", "ternary", VALUES, (-1.1, 0.3, 1.7)], ids=str)
def test_no_code_decodes_to_more_than_the_dtype_holds(name: Any, dtype: Any, scale_dtype: str) -> None:
    """Scales that rounding took beyond the largest weight would decode to infinity."""
    most = ml_dtypes.finfo(dtype).max
    w = np.array([[most, -most] * 20], dtype)
    if scale_dtype == "float16" and dtype != np.float16:
        with pytest.raises(ValueError, match="overflows float16"):
            qt.quantize_codebook(w, name, scale_dtype=scale_dtype)
        return
    for part in (1, 0.9999):
        for group_size in (7, "tensor"):
            x = (w.astype(np.float64) * part).astype(dtype)
            if scale_dtype == "bfloat16" and dtype == np.float32 and name != (-1.1, 0.3, 1.7) and name != VALUES:
                x = x / np.float32(1.01)  # the scale itself must fit
            options: dict[str, Any] = {"scale_dtype": scale_dtype, "group_size": group_size}
            q = qt.quantize_codebook(x, name, **options)
            assert np.isfinite(q.dequantize(dtype=dtype).astype(np.float32)).all()
            with qt.use_isa("reference"):
                assert bits_of(q) == bits_of(qt.quantize_codebook(x, name, **options))
    with pytest.raises(ValueError, match="scales times the largest value of codebook must fit"):
        qt.quantize_codebook(w, (-1.1, 0.3, 1.7), scales=float(most) / 1.5 if dtype == np.float16 else 2.1e38)


@pytest.mark.promise("A5")
@pytest.mark.parametrize("name", ["nf4", "fp4", VALUES], ids=str)
def test_accuracy_does_not_depend_on_size(name: Any) -> None:
    """Powers of two scale codes and errors exactly, down to where float32 ends."""
    w = weights(11)
    codes = qt.quantize_codebook(w, name).codes()
    for power in (-100, -110, 100):
        assert bits_of(qt.quantize_codebook(w * np.float32(2.0**power), name).codes()) == bits_of(codes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["nf4", "binary", "ternary", VALUES], ids=str)
def test_scale_dtype_rounds_scales_before_codes(name: Any, dtype: str) -> None:
    w = weights(12)
    q = qt.quantize_codebook(w, name, scale_dtype=dtype)
    plain = qt.quantize_codebook(w, name)
    assert bits_of(q.scales) == bits_of(plain.scales.astype(np.dtype(dtype)).astype(np.float32))
    if name not in ("binary", "ternary"):
        assert bits_of(q) == bits_of(qt.quantize_codebook(w, name, scales=q.scales))


@pytest.mark.promise("A8")
@pytest.mark.parametrize("name", ["nf4", "binary", "ternary"])
@pytest.mark.parametrize("group_size", [32, "tensor"])
def test_scale_beyond_float16(name: str, group_size: Any) -> None:
    with pytest.raises(ValueError, match=r"scale of group \d+ overflows float16"):
        qt.quantize_codebook(weights(13) * np.float32(1e6), name, scale_dtype="float16", group_size=group_size)


@pytest.mark.promise("A8")
def test_scale_beyond_float32() -> None:
    with pytest.raises(ValueError, match="scale of group 0 overflows float32"):
        qt.quantize_codebook(row([3e38]), [-1e-30, 1e-30])


@pytest.mark.promise("A19")
@pytest.mark.parametrize("name", [*ALL, VALUES], ids=str)
@pytest.mark.parametrize("shape", [(0,), (0, 8), (8, 0), (3, 0, 4)])
def test_empty_arrays(name: Any, shape: tuple[int, ...]) -> None:
    for group_size in (None,) if name in ("mxfp4", "mxint8") else (None, "channel", "tensor"):
        q = qt.quantize_codebook(np.zeros(shape, np.float32), name, group_size=group_size)
        assert q.shape == shape
        assert q.dequantize().shape == shape


@pytest.mark.parametrize("name", [*ALL, VALUES], ids=str)
def test_out_is_filled_again(name: Any) -> None:
    w = weights(14)
    want = qt.quantize_codebook(w, name)
    again = qt.quantize_codebook(-w[:, ::-1], name)
    assert bits_of(again) != bits_of(want)
    assert qt.quantize_codebook(w, name, out=again) is again
    assert bits_of(again) == bits_of(want)
    before = bits_of(again)
    for other in (w[:2], w[:, :50]):
        with pytest.raises(ValueError, match="out must have"):
            qt.quantize_codebook(other, name, out=again)
    with pytest.raises(ValueError, match="out must have"):
        qt.quantize_codebook(w, "fp4" if name == "nf4" else "nf4", group_size=32, out=again)
    with pytest.raises(TypeError, match="out must be a QuantizedTensor, not ndarray"):
        qt.quantize_codebook(w, name, out=w)  # type: ignore[arg-type]
    assert bits_of(again) == before


@pytest.mark.promise("A31", "A32")
def test_arrays_of_out() -> None:
    w = np.ones((4, 1), np.float32)
    q = qt.quantize_codebook(w, "nf4", group_size=1)
    over_w = qt.QuantizedTensor(q.data, w, None, 4, 1, (4, 1), q.codebook)
    with pytest.raises(ValueError, match=r"out\.scales must be apart"):
        qt.quantize_codebook(w, "nf4", group_size=1, out=over_w)
    q.data.flags.writeable = False
    with pytest.raises(ValueError, match=r"out\.data must be writeable"):
        qt.quantize_codebook(w, "nf4", group_size=1, out=q)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_are_read_as_they_are(dtype: Any) -> None:
    for name in (*ALL, VALUES):
        w = weights(15).astype(dtype)
        assert bits_of(qt.quantize_codebook(w, name)) == bits_of(qt.quantize_codebook(w.astype(np.float32), name))


# Parameters


@pytest.mark.promise("B48")
@pytest.mark.parametrize("bad", ["nf3", "", "NF4", "mxfp8"])
def test_unknown_codebook(bad: str) -> None:
    with pytest.raises(ValueError, match="codebook must be one of 'nf4', 'fp4'"):
        qt.quantize_codebook(weights(0), bad)


@pytest.mark.promise("B44")
@pytest.mark.parametrize(
    "bad,error,words",
    [
        ([1.0], ValueError, r"2\.\.256 values in one axis, not have shape \(1,\)"),
        (np.arange(257.0), ValueError, r"not have shape \(257,\)"),
        (np.zeros((2, 2)), ValueError, r"not have shape \(2, 2\)"),
        ([0.0, 1.0, 1.0], ValueError, "codebook must be strictly increasing, not go from 1.0 to 1.0 at index 2"),
        ([0.0, 2.0, 1.0], ValueError, "codebook must be strictly increasing, not go from 2.0 to 1.0 at index 2"),
        ([0.0, 1.0, 1 + 1e-9], ValueError, "codebook must be strictly increasing"),
        ([0.0, math.nan], ValueError, "codebook must be finite"),
        ([0.0, math.inf], ValueError, "codebook must be finite"),
        ([0.0, 1e39], ValueError, "codebook must fit float32"),
        ([False, True], TypeError, "codebook must be float32.*not bool"),
        (None, TypeError, "codebook must be float32.*not object"),
    ],
    ids=lambda v: str(v)[:20],
)
def test_codebook_values(bad: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        qt.quantize_codebook(weights(0), bad)


@pytest.mark.promise("B41")
@pytest.mark.parametrize("group_size", [0, -1, 2**31, "row", 2.0, True], ids=repr)
def test_group_size_out_of_range(group_size: Any) -> None:
    for call in (lambda: qt.quantize_codebook(weights(0), "nf4", group_size=group_size),
                 lambda: qt.cluster(weights(0), group_size=group_size),
                 lambda: qt.recognize_grid(weights(0), group_size=group_size)):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match="group_size must be"):
            call()


@pytest.mark.promise("B41")
@pytest.mark.parametrize("name", ["mxfp4", "mxint8"])
def test_group_sizes_of_mx(name: str) -> None:
    q = qt.quantize_codebook(weights(0), name)
    assert bits_of(qt.quantize_codebook(weights(0), name, group_size=32)) == bits_of(q)
    with pytest.raises(ValueError, match=f"group_size must be 32 for '{name}', not 64"):
        qt.quantize_codebook(weights(0), name, group_size=64)
    with pytest.raises(ValueError, match="scale_dtype must be 'float32'"):
        qt.quantize_codebook(weights(0), name, scale_dtype="float16")


@pytest.mark.promise("B44")
@pytest.mark.parametrize("name", ["mxfp4", "mxint8", "binary", "ternary"])
def test_methods_that_find_their_scale(name: str) -> None:
    with pytest.raises(ValueError, match=f"scales must be None for '{name}'"):
        qt.quantize_codebook(weights(0), name, scales=1.0)


@pytest.mark.promise("B44")
@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, 1e-46])
def test_given_scales(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scales must be positive and finite in float32, not .* at flat index 0"):
        qt.quantize_codebook(weights(0), "nf4", scales=scale)
    with pytest.raises(ValueError, match=r"scales must broadcast to shape \(7, 2\), not have shape \(3,\)"):
        qt.quantize_codebook(weights(0), "nf4", scales=np.ones(3, np.float32))


def test_results_that_leave_the_caches() -> None:
    """Codes and weights above the limit are written past the caches: the same bits as those of few rows."""
    w = np.random.default_rng(16).standard_normal((4099, 9056)).astype(np.float32)
    for isa in qt.isas()[:-1]:
        with qt.use_isa(isa):
            q = qt.quantize_codebook(w, "nf4")
            back = q.dequantize()
            for r in (0, 1, 2048, 4098):
                few = qt.quantize_codebook(w[r : r + 1], "nf4")
                assert bits_of(few.data) == bits_of(q.data[r : r + 1])
                assert bits_of(few.dequantize()) == bits_of(back[r : r + 1])
