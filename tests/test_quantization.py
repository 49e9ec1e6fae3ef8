"""What quantize, dequantize and round_to_int mean, said again in plain Python with exact fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from functions import Array, bits_of

import quantrim as qt

BITS = range(2, 9)
MAX = float(np.finfo(np.float32).max)
# Weights are multiplied by the rounded inverse of the scale: three roundings of up to 2**-24 of a quotient.
QUOTIENT = Fraction(3, 2**24)


def weights(seed: int, rows: int = 7, cols: int = 96) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def one_group(values: list[float], bits: int = 8, **options: Any) -> qt.QuantizedTensor:
    return qt.quantize(np.array([values], np.float32), bits, **options)


def exact(x: Any) -> Fraction:
    return Fraction(float(x))


def decoded(q: qt.QuantizedTensor) -> list[list[Fraction]]:
    """(code - zero) * scale without any rounding; group_size an integer or "channel"."""
    group = q.shape[-1] if isinstance(q.group_size, str) else q.group_size
    zeros = np.zeros_like(q.scales, np.uint8) if q.zero_points is None else q.zero_points
    return [
        [(int(c) - int(zeros[r, k // group])) * exact(q.scales[r, k // group]) for k, c in enumerate(row)]
        for r, row in enumerate(q.codes())
    ]


# Scales


@pytest.mark.parametrize("bits", BITS)
def test_absmax_scale(bits: int) -> None:
    """absmax / (2**(bits-1) - 1), rounded once: a float64 quotient of float32 rounds to the same."""
    w = weights(bits)
    want = [[np.float32(float(np.abs(row).max()) / (2 ** (bits - 1) - 1))] for row in w]
    assert qt.quantize(w, bits).scales.tolist() == np.array(want).tolist()


@pytest.mark.parametrize("bits", BITS)
def test_asymmetric_scale_spans_the_range_and_zero(bits: int) -> None:
    for w in (weights(bits), np.abs(weights(bits)), -np.abs(weights(bits)) - 1):
        q = qt.quantize(w, bits, symmetric=False)
        assert q.zero_points is not None
        for row, scale, zero in zip(w, q.scales[:, 0], q.zero_points[:, 0], strict=True):
            low, high = min(exact(row.min()), Fraction(0)), max(exact(row.max()), Fraction(0))
            ideal = (high - low) / (2**bits - 1)
            assert abs(exact(scale) - ideal) <= ideal / 2**24
            assert abs(zero - -low / exact(scale)) <= Fraction(1, 2) + 2**bits * QUOTIENT


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_power_of_two_scale_is_the_next_one_up(bits: int, symmetric: bool) -> None:
    w = weights(bits)
    plain = qt.quantize(w, bits, symmetric=symmetric).scales
    q = qt.quantize(w, bits, symmetric=symmetric, scale="power_of_two")
    assert (np.frexp(q.scales)[0] == 0.5).all()
    assert ((plain <= q.scales) & (q.scales < 2 * plain)).all()
    top = 2 ** (bits - 1) - 1
    assert one_group([0.25 * top], bits, scale="power_of_two").scales.tolist() == [[0.25]]
    assert one_group([1.1 * 2**-140 * top], bits, scale="power_of_two").scales.tolist() == [[2.0**-139]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scale_dtype_rounds_scales_before_codes(dtype: str) -> None:
    w = weights(4)
    q = qt.quantize(w, 4, group_size=32, scale_dtype=dtype)
    rounded = qt.quantize(w, 4, group_size=32).scales.astype(np.dtype(dtype)).astype(np.float32)
    assert bits_of(q.scales) == bits_of(rounded)
    assert bits_of(q) == bits_of(qt.quantize(w, 4, group_size=32, scales=rounded))


def test_given_scales_are_used() -> None:
    w = weights(5)
    per_row = np.linspace(0.1, 2, 7, dtype=np.float32)[:, None]
    for scale in (0.5, np.float16(0.5), per_row, per_row.astype(np.float64), np.asfortranarray(per_row)):
        q = qt.quantize(w, 4, scales=scale)
        assert (q.scales == np.broadcast_to(np.asarray(scale, np.float32), (7, 1))).all()
        want = [
            [max(-7, min(7, round(exact(x) / exact(s)))) for x in row] for row, s in zip(w, q.scales[:, 0], strict=True)
        ]
        assert np.abs(q.codes() - np.array(want)).sum() == 0


def test_given_scales_find_zero_points() -> None:
    q = qt.quantize(np.array([[-3.0, 1.0], [2.0, 4.0]], np.float32), 4, symmetric=False, scales=0.5)
    assert q.zero_points is not None
    assert q.zero_points.tolist() == [[6], [0]]
    assert q.dequantize().tolist() == [[-3.0, 1.0], [2.0, 4.0]]


@pytest.mark.promise("B44")
@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-46])
def test_given_scale_must_be_positive_and_finite(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scales must be positive and finite in float32, not .* at flat index 2"):
        qt.quantize(weights(6), 4, scales=np.array([[1.0], [1.0], [scale], [1], [1], [1], [1]], np.float64))


@pytest.mark.promise("B44")
def test_given_scale_of_wrong_shape_or_type() -> None:
    with pytest.raises(ValueError, match=r"scales must broadcast to shape \(7, 1\), not have shape \(3,\)"):
        qt.quantize(weights(6), scales=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="scales must fit float32"):
        qt.quantize(weights(6), scales=1e39)
    with pytest.raises(ValueError, match="scale must be one of 'absmax', 'mse', 'power_of_two', not 'minmax'"):
        qt.quantize(weights(6), scale="minmax")
    with pytest.raises(ValueError, match="scale must be left out where scales are given, not 'mse'"):
        qt.quantize(weights(6), scale="mse", scales=1.0)
    for wrong in (True, np.ma.masked_array([1.0])):
        with pytest.raises(TypeError, match="scales must be"):
            qt.quantize(weights(6), scales=wrong)


# Groups


@pytest.mark.promise("A21", "A22")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("cols", [1, 2, 3, 31, 32, 33, 97])
@pytest.mark.parametrize("group", [1, 3, 16, 32, 100])
def test_groups_are_quantized_on_their_own(group: int, cols: int, symmetric: bool) -> None:
    """Each group gives what a row of just its columns gives; the last may be short, or the only one."""
    w = weights(cols, 3, cols)
    q = qt.quantize(w, 4, group_size=group, symmetric=symmetric)
    assert q.scales.shape == (3, math.ceil(cols / group))
    for g in range(q.scales.shape[1]):
        columns = slice(g * group, (g + 1) * group)
        alone = qt.quantize(w[:, columns], 4, symmetric=symmetric)
        assert bits_of(q.codes()[:, columns]) == bits_of(alone.codes())
        assert (q.scales[:, g] == alone.scales[:, 0]).all()


@pytest.mark.parametrize("options", [{}, {"symmetric": False}, {"scale": "mse"}, {"scale": "power_of_two"}], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (5, 1), (5, 70), (2, 3, 35)])
def test_tensor_and_channel_are_one_group_each(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    w = weights(1, 1, math.prod(shape)).reshape(shape)
    tensor = qt.quantize(w, 4, group_size="tensor", **options)
    flat = qt.quantize(w.reshape(1, -1), 4, **options)
    assert tensor.scales.shape == (1,) * len(shape)
    assert tensor.scales.tobytes() == flat.scales.tobytes()
    assert tensor.codes().tobytes() == flat.codes().tobytes()
    assert bits_of(tensor.dequantize().reshape(-1)) == bits_of(flat.dequantize().reshape(-1))
    channel = qt.quantize(w, 4, group_size="channel", **options)
    assert channel.scales.shape == (*shape[:-1], 1)
    assert channel.codes().tobytes() == qt.quantize(w, 4, group_size=shape[-1], **options).codes().tobytes()


# Rounding


@pytest.mark.promise("A12")
@pytest.mark.parametrize("bits", BITS)
def test_ties_go_to_even_at_every_code(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    halves = [k + 0.5 for k in range(-top - 1, top + 1)]
    for scale in (1.0, 2.0**-30, 2.0**30, 2.0**-130):
        codes = one_group([h * scale for h in halves], bits, scales=scale).codes()[0].tolist()
        assert codes == [max(-top, min(top, round(h))) for h in halves]


@pytest.mark.promise("A12", "A13")
@pytest.mark.parametrize("rounding", ["even", "away", "floor"])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_round_to_int(rounding: str, bits: int, signed: bool) -> None:
    """Every quarter step around the range, ties included, and what lies far beyond it."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    rules: dict[str, Callable[[Fraction], int]] = {
        "even": round,
        "away": lambda x: math.floor(abs(x) + Fraction(1, 2)) * (1 if x > 0 else -1),
        "floor": math.floor,
    }
    rule = rules[rounding]
    below_half = float(np.nextafter(np.float32(0.5), np.float32(0)))
    x = [k / 4 for k in range(-1100, 1101)] + [
        below_half,
        -below_half,
        2.0**31,
        -(2.0**31),
        1e30,
        -1e30,
        MAX,
        -MAX,
    ]
    for multiplier, offset in ((1.0, 0), (0.5, 3), (-2.0, -100), (1.0, 65536), (1.0, -65536)):
        w = np.array(x, np.float32)
        got = qt.round_to_int(w, multiplier, offset=offset, bits=bits, signed=signed, rounding=rounding)
        want = [max(low, min(high, rule(exact(v) * exact(multiplier)) + offset)) for v in w]
        assert got.dtype == (np.int8 if signed else np.uint8)
        assert got.tolist() == want


def split_mix(seed: int, i: int) -> float:
    """SplitMix64 at a counter, as Steele et al. print it; the top 24 bits."""
    mask = 2**64 - 1
    z = (seed + (i + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
    return ((z ^ z >> 31) >> 40) / 2**24


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_stochastic_rounding_is_floor_of_x_plus_u(seed: int) -> None:
    w = weights(2, 3, 50)
    want = [math.floor(np.float32(x) + np.float32(split_mix(seed, i))) for i, x in enumerate(w.reshape(-1) * 16)]
    got = qt.round_to_int(w, 16, rounding="stochastic", seed=seed)
    assert got.reshape(-1).tolist() == [max(-128, min(127, x)) for x in want]
    codes = qt.quantize(w, 8, scales=1 / 16, rounding="stochastic", seed=seed, group_size=7).codes()
    assert codes.reshape(-1).tolist() == [max(-127, min(127, x)) for x in want]


@pytest.mark.parametrize("value", [0.1, 0.5, 0.75, -0.3, 1.9])
def test_stochastic_rounding_is_right_on_average(value: float) -> None:
    """The mean of n draws lies within five of its standard deviations."""
    n = 40_000
    steps = qt.round_to_int(np.full(n, value, np.float32), 1, rounding="stochastic", seed=9)
    assert set(np.unique(steps)) <= {math.floor(value), math.ceil(value)}
    part = value - math.floor(value)
    assert abs(float(steps.mean()) - value) < 5 * math.sqrt(part * (1 - part) / n)


def test_stochastic_rounding_follows_its_seed() -> None:
    w = weights(3)
    a, b, again = (qt.quantize(w, 4, rounding="stochastic", seed=s).data for s in (1, 2, 1))
    assert (a == again).all()
    assert (a != b).any()


# Codes


@pytest.mark.promise("A14")
@pytest.mark.parametrize("bits", BITS)
def test_symmetric_codes_leave_out_the_lowest(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    for rounding in ("even", "away", "floor", "stochastic"):
        codes = qt.quantize(weights(bits, 40, 64) * 100, bits, scales=0.5, rounding=rounding).codes()
        assert (codes.min(), codes.max()) == (-top, top)


@pytest.mark.parametrize("bits", BITS)
def test_asymmetric_codes_use_the_whole_range_and_keep_zero(bits: int) -> None:
    w = weights(bits)
    w[:, 5] = 0
    q = qt.quantize(w, bits, symmetric=False)
    assert q.codes().min() == 0
    assert q.codes().max() == 2**bits - 1
    assert (q.dequantize()[:, 5] == 0).all()
    for one_sided in (np.abs(w) + 1, -np.abs(w) - 1):
        codes = qt.quantize(one_sided, bits, symmetric=False).zero_points
        assert codes is not None
        assert set(codes.reshape(-1).tolist()) == ({0} if one_sided[0, 0] > 0 else {2**bits - 1})


@pytest.mark.promise("A3", "A4")
@pytest.mark.parametrize("group_size", [1, 5, 32, "channel", "tensor"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale", ["absmax", "mse", "power_of_two"])
def test_zero_groups(group_size: int | str, symmetric: bool, scale: str) -> None:
    """Scale 0, decoded to +0, and the same bytes for either sign of zero."""
    plus = np.zeros((3, 37), np.float32)
    a, b = (qt.quantize(w, 4, group_size=group_size, symmetric=symmetric, scale=scale) for w in (plus, -plus))
    assert bits_of(a) == bits_of(b)
    assert not a.scales.any()
    assert (a.codes() == (0 if a.zero_points is None else a.zero_points.reshape(-1)[0])).all()
    assert bits_of(a.dequantize()) == bits_of(plus)


@pytest.mark.promise("A8")
def test_scale_beyond_its_dtype_is_refused() -> None:
    w = np.ones((2, 8), np.float32)
    w[1, 7] = 127 * 65520
    with pytest.raises(ValueError, match="scale of group 3 overflows float16; use scale_dtype='float32'"):
        qt.quantize(w, 8, group_size=4, scale_dtype="float16")
    assert qt.quantize(w, 8, group_size=4, scale_dtype="bfloat16").scales.max() == 65536
    with pytest.raises(ValueError, match="positive and finite in float16, not inf at flat index 0"):
        qt.quantize(w, 8, scales=65520.0, scale_dtype="float16")


@pytest.mark.promise("A7")
def test_scale_below_its_dtype() -> None:
    """A float16 subnormal stays one, and is the least one for weights that are nearer to it than to 0."""
    w = [127 * 2.0**-24, 127 * 2.0**-26, 0.51 * 2.0**-24, 0.49 * 2.0**-24]
    for scale in ("absmax", "power_of_two", "mse"):
        q = one_group(w, 8, group_size=1, scale_dtype="float16", scale=scale)
        assert np.abs(q.scales).tolist() == [[2.0**-24, 2.0**-24, 2.0**-24, 0.0]]
        assert q.dequantize().tolist() == [[127 * 2.0**-24, 32 * 2.0**-24, 2.0**-24, 0.0]]


@pytest.mark.promise("A1", "A2")
@pytest.mark.parametrize("nonfinite", ["zero", "saturate"])
def test_nonfinite_replaced_on_request(nonfinite: str) -> None:
    w = weights(8)
    w[0, 0], w[3, 5], w[6, 95] = np.nan, np.inf, -np.inf
    top = np.abs(w[np.isfinite(w)]).max() if nonfinite == "saturate" else 0
    clean = w.copy()
    clean[0, 0], clean[3, 5], clean[6, 95] = 0, top, -top
    for dtype in (np.float32, np.float16):
        want = qt.quantize(clean.astype(dtype), 4, group_size=32)
        assert bits_of(qt.quantize(w.astype(dtype), 4, group_size=32, nonfinite=nonfinite)) == bits_of(want)
    assert np.isnan(w[0, 0])


# Decoding


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_dequantize_rounds_once_to_float32_then_to_the_dtype(dtype: str, symmetric: bool) -> None:
    q = qt.quantize(weights(9), 5, group_size=7, symmetric=symmetric)
    want = np.array([[np.float32(float(x)) for x in row] for row in decoded(q)], np.float32).astype(np.dtype(dtype))
    assert bits_of(qt.dequantize(q, dtype=np.dtype(dtype))) == bits_of(want)


@pytest.mark.promise("A18")
def test_codes_of_both_kinds_come_back() -> None:
    """Every code of every width is stored and decoded as itself."""
    for bits in BITS:
        every = np.arange(2**bits, dtype=np.uint8)[None]
        for zero in (None, np.array([[2**bits - 2]], np.uint8)):
            q = qt.QuantizedTensor(
                qt.pack(every, bits), np.full((1, 1), 0.5, np.float32), zero, bits, "channel", every.shape
            )
            offset = 2 ** (bits - 1) if zero is None else 2**bits - 2
            assert q.codes().tolist() == [[k - (offset if zero is None else 0) for k in range(2**bits)]]
            assert q.dequantize().tolist() == [[(k - offset) / 2 for k in range(2**bits)]]


@pytest.mark.promise("A19")
@pytest.mark.parametrize("shape", [(0,), (0, 8), (8, 0), (0, 0), (3, 0, 4)])
@pytest.mark.parametrize("group_size", [4, "channel", "tensor"])
def test_nothing_to_quantize(shape: tuple[int, ...], group_size: Any) -> None:
    for symmetric in (True, False):
        q = qt.quantize(np.zeros(shape, np.float32), 3, group_size=group_size, symmetric=symmetric)
        assert q.codes().shape == q.dequantize().shape == shape
        assert q.bits_per_weight == 0


@pytest.mark.promise("A13")
def test_zero_point_of_a_range_far_beyond_a_given_scale() -> None:
    w = np.array([[-1e20, 1.0, 2.0]], np.float32)
    for isa in qt.isas():
        with qt.use_isa(isa):
            q = qt.quantize(w, 4, symmetric=False, scales=0.5)
        assert q.zero_points is not None
        assert (isa, q.zero_points.tolist(), q.codes().tolist()) == (isa, [[15]], [[0, 15, 15]])
