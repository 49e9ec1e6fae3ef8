"""What must hold for any weights: on groups made to break it, and on more than 2**31 of them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import psutil
import pytest
from functions import Array, bits_of

import quantrim as qt

MAX = float(np.finfo(np.float32).max)
TINY = 2.0**-126  # the least normal float32: below it a scale has fewer bits than its quotients need
# A weight is multiplied by the rounded inverse of its scale: three roundings of 2**-24, of up to 255 steps.
HALF_STEP = Fraction(1, 2) + 255 * Fraction(3, 2**24)


def adversarial(seed: int, groups: int, size: int = 32) -> Array:
    """Groups of one magnitude, of many, of ties, with outliers, one-sided, of zeros; up to 2**126."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((groups, size))
    kind = rng.integers(0, 8, (groups, 1))
    one_size = normal * 2.0 ** rng.integers(-149, 123, (groups, 1))
    mixed = np.clip(normal, -3, 3) * 2.0 ** rng.integers(-149, 124, (groups, size))
    ties = rng.integers(-16, 17, (groups, size)) / 2
    outlier = np.where(rng.random((groups, size)) < 0.05, 3e37, 1e-3 * normal)
    one_sided = np.abs(one_size)
    zeros = np.where(rng.random((groups, size)) < 0.5, 0.0, -0.0)
    sparse = np.where(rng.random((groups, size)) < 0.9, -0.0, normal)
    near = 1 + 2.0**-20 * normal
    values = np.choose(kind, [one_size, mixed, ties, outlier, one_sided, zeros, sparse, near])
    return values.astype(np.float32)


def check_groups(w: Array, bits: int, symmetric: bool, rule: str, scale_dtype: str) -> None:
    q = qt.quantize(w, bits, symmetric=symmetric, scale=rule, scale_dtype=scale_dtype)
    decoded = q.dequantize()
    assert np.isfinite(q.scales).all()
    assert (rule == "mse" and symmetric) or (q.scales >= 0).all()
    assert np.isfinite(decoded).all()
    assert (decoded[w == 0] == 0).all()
    assert not decoded[np.broadcast_to(q.scales == 0, w.shape)].any()
    steps = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
    span = np.abs(w).max(-1) if symmetric else np.maximum(w.max(-1), 0).astype(np.float64) - np.minimum(w.min(-1), 0)
    least = {"float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}[scale_dtype]
    assert q.scales[:, 0][span / steps > least].all(), "only what rounds to 0 may be 0"


@pytest.mark.promise("A3", "A5", "A10", "G9")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rule", ["absmax", "mse", "power_of_two"])
@pytest.mark.parametrize("scale_dtype", ["float32", "bfloat16"])
def test_adversarial_groups(symmetric: bool, rule: str, scale_dtype: str) -> None:
    """Scales finite, negative only by least squares, 0 only where they may round to it; results finite; zeros stay
    zeros."""
    for bits in range(2, 9):
        check_groups(adversarial(bits, 3000), bits, symmetric, rule, scale_dtype)


@pytest.mark.promise("A3", "A5", "A10")
@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rule", ["absmax", "power_of_two"])
def test_millions_of_adversarial_groups(symmetric: bool, rule: str) -> None:
    for bits in (2, 4, 8):
        for seed in range(4):
            check_groups(adversarial(100 + seed, 200_000), bits, symmetric, rule, "float32")


@pytest.mark.promise("A10", "G9")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_error_is_at_most_half_a_step(bits: int, symmetric: bool) -> None:
    """With exact fractions, for every weight whose scale is a normal number."""
    w = adversarial(bits, 240)
    q = qt.quantize(w, bits, symmetric=symmetric)
    zeros = np.zeros(len(w), np.int64) if q.zero_points is None else q.zero_points[:, 0].astype(np.int64)
    checked = 0
    steps = q.codes() - zeros[:, None]
    for row, multiples, s in zip(w.tolist(), steps.tolist(), q.scales[:, 0].tolist(), strict=True):
        if s >= TINY:
            scale = Fraction(s)
            assert all(abs(Fraction(x) - n * scale) <= HALF_STEP * scale for x, n in zip(row, multiples, strict=True))
            checked += len(row)
    assert checked > 3000


@pytest.mark.promise("A7")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_error_with_rounded_scales(dtype: str, symmetric: bool) -> None:
    """Symmetric codes keep the bound. An asymmetric end moves by the rounding of 2**bits - 1 steps."""
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]  # of the scale before rounding
    w = np.random.default_rng(0).standard_normal((500, 32)).astype(np.float32)
    for bits in range(2, 9):
        q = qt.quantize(w, bits, symmetric=symmetric, scale_dtype=dtype)
        most = float(HALF_STEP) + (0 if symmetric else (2**bits - 1) * unit / (1 - unit))
        assert (np.abs(w - q.dequantize().astype(np.float64)) <= q.scales * most).all()


@pytest.mark.promise("A5", "A7")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("dtype", "unit"), [("float32", -149), ("float16", -24), ("bfloat16", -133)])
def test_error_with_subnormal_scales(dtype: str, unit: int, symmetric: bool) -> None:
    """Half a step, and a unit for each of the steps to the far end, exactly."""
    rng = np.random.default_rng(0)
    for bits in (2, 4, 8):
        steps = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
        w = (rng.standard_normal((400, 32)) * 2.0 ** rng.uniform(unit + bits, unit + 9, (400, 1))).astype(np.float32)
        q = qt.quantize(w, bits, symmetric=symmetric, scale_dtype=dtype)
        assert (q.scales > 0).mean() > 0.8
        for row, decoded, s in zip(w.tolist(), q.dequantize().tolist(), q.scales[:, 0].tolist(), strict=True):
            if s > 0:
                worst = max(abs(Fraction(x) - Fraction(y)) for x, y in zip(row, decoded, strict=True))
                assert worst <= Fraction(s) / 2 + steps * Fraction(2) ** unit


@pytest.mark.promise("A5")
@pytest.mark.parametrize("tiny", [1e-38, 1e-40, 1e-44, 1e-45])
def test_tiny_groups(tiny: float) -> None:
    """The inverse of a tiny scale overflows float32; codes come out right all the same."""
    w = np.array([[tiny * 127, -tiny * 127, tiny * 64, 0]], np.float32)
    q = qt.quantize(w, 8)
    steps = [round(Fraction(float(x)) / Fraction(float(q.scales[0, 0]))) for x in w[0]]
    assert q.scales[0, 0] > 0
    assert q.codes()[0].tolist() == [max(-127, min(127, s)) for s in steps]
    least = qt.quantize(np.array([[2.0**-149, 0]], np.float32), 2)
    assert least.dequantize().tolist() == [[2.0**-149, 0]]


@pytest.mark.promise("A11")
def test_range_beyond_float32() -> None:
    for bits in (3, 4, 8):
        w = np.array([[3e38, -3e38, 1e38, 0]], np.float32)
        q = qt.quantize(w, bits, symmetric=False)
        # 2**(bits-1) such steps would exceed float32: where that is so the longer side has one step less
        half = 2 ** (bits - 1)
        scale = 6e38 / (2 * half - 1) if 6e38 / (2 * half - 1) * half < MAX else 3e38 / (half - 1)
        assert float(q.scales[0, 0]) == pytest.approx(scale, rel=1e-6)
        assert (np.abs(q.dequantize() - w.astype(np.float64)) <= scale * 0.501).all()
        assert q.dequantize()[0, 3] == 0


@pytest.mark.promise("A11")
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_largest_weights_decode_to_finite_ones(dtype: Any) -> None:
    """Zero points round, and so do scales: 128 steps of 65504 / 127.5 would exceed float16."""
    top = float(np.finfo(dtype).max)
    w = np.array([[top, -top, top / 3, 0]], dtype)
    for symmetric in (True, False):
        for bits in range(2, 9):
            for rule in ("absmax", "mse", "power_of_two", np.float32(top / 2)):
                options: dict[str, Any] = {"scale" if isinstance(rule, str) else "scales": rule}
                q = qt.quantize(w, bits, symmetric=symmetric, **options)
                decoded = q.dequantize(dtype=dtype).astype(np.float64)
                assert np.isfinite(decoded).all()
                if isinstance(rule, str) and rule == "absmax":
                    assert (np.abs(decoded - w) <= 1.01 * q.scales.astype(np.float64)).all()


@pytest.mark.promise("A11")
def test_the_largest_float16_weights_with_float16_scales() -> None:
    """Readers of such files multiply in float16: the scale rounds down where rounding up would overflow there."""
    w = np.array([[65504.0, -65504.0, 1.0, 0.0]], np.float16)
    for bits in range(2, 9):
        q = qt.quantize(w, bits, scale_dtype="float16")
        product = q.codes().astype(np.float16) * q.scales.astype(np.float16)
        assert np.abs(product[0, :2]).min() >= 65504 * (1 - 2.0**-10)
        assert np.isfinite(product).all()


@pytest.mark.promise("A11")
def test_weights_beyond_the_dtype_of_scales_are_refused() -> None:
    w = np.array([[70000.0, 1.0]], np.float32)
    for bits in (2, 4, 8):
        for symmetric in (True, False):
            with pytest.raises(ValueError, match=r"overflows float16.*; use scale_dtype='float32'"):
                qt.quantize(w, bits, symmetric=symmetric, scale_dtype="float16")


# More than 2**31 elements

HUGE = 2**31 + 65
SPOTS = (0, 2**31 - 1, 2**31, HUGE - 1)


def zero_pages(dtype: Any, needed: int) -> Array:
    """HUGE zeros that cost no memory until written; skips where `needed` bytes of results do not fit."""
    free = psutil.virtual_memory().available
    if free < needed * 1.3:
        pytest.skip(f"needs {needed >> 20} MiB of memory for results, {free >> 20} MiB are free")
    return np.zeros(HUGE, dtype)


@pytest.mark.promise("A34")
@pytest.mark.slow
def test_huge_counts_sums_and_errors() -> None:
    w = zero_pages(np.float16, 0)
    for k, spot in enumerate(SPOTS):
        w[spot] = k + 1
    assert qt.sparsity(w) == (HUGE - 4) / HUGE
    assert qt.importance.l1(w) == 10
    assert qt.importance.l2(w, 0) == np.sqrt(np.float32(30))
    assert qt.importance.share(w.reshape(5, -1) if HUGE % 5 == 0 else w[: HUGE // 5 * 5].reshape(5, -1)).sum() == 1
    w[SPOTS[2]] = np.nan
    found = f"has 1 NaN or infinite of {HUGE} values, the first nan at flat index {2**31}$"
    with pytest.raises(ValueError, match=found):
        qt.importance.l1(w)


@pytest.mark.promise("A34")
@pytest.mark.slow
def test_huge_masks() -> None:
    w = zero_pages(np.float16, 2 * HUGE)
    w[list(SPOTS)] = [4, -3, 2, 1]
    keep = qt.prune_mask(w, 1 - 3 / HUGE)
    assert np.flatnonzero(keep).tolist() == [SPOTS[0], SPOTS[2], SPOTS[3]]
    keep = qt.prune_mask(w, 0.5)
    gone = round(0.5 * HUGE)
    assert not keep[2**31 - 1]
    assert not keep[1:gone].any()
    assert keep[gone : 2**31 - 1].all()
    assert keep[2**31 :].all()


@pytest.mark.promise("A34")
@pytest.mark.slow
@pytest.mark.parametrize("group_size", [64, "tensor"])
def test_huge_codes(group_size: Any) -> None:
    w = zero_pages(ml_dtypes.bfloat16, HUGE // 2 + HUGE // 8)
    w[list(SPOTS)] = [7, -7, 3, -5]
    q = qt.quantize(w, 4, group_size=group_size)
    whole = qt.unpack(q.data, 4, HUGE)
    assert np.flatnonzero(whole != 8).tolist() == list(SPOTS)
    tail = qt.quantize(w[2**31 :], 4, group_size=group_size, scales=q.scales.max())
    if group_size == "tensor":
        assert bits_of(q.data[2**30 :]) == bits_of(tail.data)
        assert whole[list(SPOTS)].tolist() == [15, 1, 11, 3]
    else:
        assert q.scales.reshape(-1).nonzero()[0].tolist() == sorted({s // 64 for s in SPOTS})


@pytest.mark.promise("A34")
@pytest.mark.slow
def test_huge_pack() -> None:
    codes = zero_pages(np.uint8, HUGE // 2)
    codes[list(SPOTS)] = [1, 2, 3, 7]
    packed = qt.pack(codes, 3)
    assert packed.size == -(-HUGE * 3 // 8)
    tail = qt.pack(codes[2**31 :], 3)
    assert bits_of(packed[2**31 // 8 * 3 :]) == bits_of(tail)
    assert np.count_nonzero(packed) == 4
