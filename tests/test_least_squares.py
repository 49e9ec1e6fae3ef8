"""Scales by least squares (`scale="mse"`), and grids at the ends of the number range, against plain numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from functions import FLOATS, Array, bits_of

import quantrim as qt
from quantrim.model.compress import compress

BITS = range(2, 9)
ROUNDING = 1e-5  # of errors that are summed in another order, of weights with 24 bits
KINDS = ("normal", "student", "uniform", "outlier", "pruned", "one-sided", "on a grid")


def groups_of(kind: str, count: int = 400, size: int = 32, seed: int = 0) -> Array:
    rng = np.random.default_rng([seed, KINDS.index(kind), size])
    w = rng.standard_normal((count, size))
    if kind == "student":
        w = rng.standard_t(3, (count, size))
    elif kind == "uniform":
        w = rng.uniform(-1, 1, (count, size))
    elif kind == "outlier":
        w[:, 0] *= 20
    elif kind == "pruned":
        w[rng.random((count, size)) < 0.6] = 0
    elif kind == "one-sided":
        w = np.abs(w)
    elif kind == "on a grid":
        w = np.round(2 * w) / 8
    return w.astype(np.float32)


def errors(w: Array, q: qt.QuantizedTensor) -> Array:
    return ((w.astype(np.float64) - q.dequantize().astype(np.float64)) ** 2).sum(-1)


def on_scales(w: Array, scale: Array, low: int, high: int, half_up: bool = False) -> tuple[Array, Array]:
    """Codes of each row with its scale, and their squared error, in float64."""
    steps = w.astype(np.float64) / np.where(scale == 0, 1, scale)[:, None]
    q = np.clip(np.floor(steps + 0.5) if half_up else np.rint(steps), low, high)
    return q, ((w - q * scale[:, None]) ** 2).sum(-1)


def left_by_first_scales(w: Array, bits: int) -> Array:
    """The least error that codes of the seven first scales leave, each with the scale that suits its codes best."""
    half = 2 ** (bits - 1)
    end = np.where(-w.min(-1) >= w.max(-1), w.min(-1), w.max(-1)).astype(np.float64)
    step = {7: 1 / 4, 8: 1 / 2}.get(bits, 3 / 8)
    left = []
    for k in range(7):
        q, _ = on_scales(w, -end / (half - 1 + k * step), -half, half - 1, half_up=True)
        scale = (w * q).sum(-1) / np.maximum((q * q).sum(-1), 1)
        left.append(((w - q * scale[:, None]) ** 2).sum(-1))
    return np.min(left, axis=0)


def clips(w: Array, bits: int) -> Array:
    """The least error of scales absmax / (2**(bits-1) - 1) * (1, 63/64, ... 17/64): what "mse" once was."""
    top = 2 ** (bits - 1) - 1
    absmax = np.abs(w).max(-1).astype(np.float64) / top
    return np.min([on_scales(w, absmax * (1 - k / 64), -top, top)[1] for k in range(48)], axis=0)


def same_everywhere(w: Array, bits: int, **options: Any) -> qt.QuantizedTensor:
    with qt.use_isa("reference"):
        want = qt.quantize(w, bits, **options)
    for isa in qt.isas():
        with qt.use_isa(isa):
            got = qt.quantize(w, bits, **options)
        assert [bits_of(a) for a in got.arrays()] == [bits_of(a) for a in want.arrays()], (isa, bits, options)
    return want


@pytest.mark.promise("fault-D11")
@pytest.mark.parametrize("bits", BITS)
def test_codes_use_the_whole_range_with_scales_of_either_sign(bits: int) -> None:
    half = 2 ** (bits - 1)
    w = groups_of("normal")
    q = qt.quantize(w, bits, scale="mse")
    assert (q.codes().min(), q.codes().max()) == (-half, half - 1)
    assert 0.3 < (q.scales < 0).mean() < 0.7
    exact = np.arange(-half, half, dtype=np.float32)[None] * np.array([[0.5], [-0.5]], np.float32)
    q = qt.quantize(exact, bits, scale="mse")
    assert q.scales.tolist() == [[0.5], [-0.5]]
    assert np.array_equal(q.dequantize(), exact)


@pytest.mark.promise("fault-D11")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 3, 16, 32, 128, 300])
def test_no_group_has_more_error_than_with_absmax(kind: str, size: int) -> None:
    w = groups_of(kind, 400 if size < 128 else 60, size)
    least = ROUNDING * 2.0**-24 * (w.astype(np.float64) ** 2).sum(-1)
    for bits in BITS:
        for symmetric in (True, False):
            for scale_dtype in ("float32", "float16", "bfloat16"):
                options: dict[str, Any] = {"symmetric": symmetric, "scale_dtype": scale_dtype}
                absmax = errors(w, qt.quantize(w, bits, **options))
                mse = errors(w, qt.quantize(w, bits, scale="mse", **options))
                assert (mse <= absmax * (1 + ROUNDING) + least).all(), (bits, options)


@pytest.mark.promise("fault-D11")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [32, 128])
def test_less_error_than_the_best_of_48_clips(kind: str, size: int) -> None:
    """Over all groups, for every kind of them; of normal weights few groups have more, and none much more."""
    w = groups_of(kind, 500, size)
    for bits in BITS:
        new, old = errors(w, qt.quantize(w, bits, scale="mse")), clips(w, bits)
        assert new.sum() <= old.sum() * (0.99 if kind != "on a grid" else 1 + ROUNDING), bits
        if kind == "normal":
            assert (new > old * (1 + ROUNDING)).mean() < 0.04
            assert (new <= 1.2 * old).all()
    w = groups_of("normal", 500, size)
    assert errors(w, qt.quantize(w, 4, scale="mse")).sum() < 0.86 * clips(w, 4).sum()
    assert errors(w, qt.quantize(w, 2, scale="mse")).sum() < 0.75 * clips(w, 2).sum()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", ["normal", "outlier", "pruned", "uniform"])
def test_mse_is_the_best_of_the_documented_first_scales(bits: int, kind: str) -> None:
    """The search rounds weights to 128ths of a step, so that one halfway between codes may go the other way."""
    w = groups_of(kind, 300, 48)
    error, best = errors(w, qt.quantize(w, bits, scale="mse")), left_by_first_scales(w, bits)
    assert error.sum() <= best.sum() * (1 + 1e-4)
    assert (error <= best * 1.1).all()
    assert (error <= best * 1.001).mean() > 0.8


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_mse_goes_on_to_smaller_scales_while_it_gains(bits: int) -> None:
    """With one large weight among thousands, the best scale is far from the first ones."""
    w = groups_of("normal", 4, 4096)
    w[:, 7] = 7
    assert (errors(w, qt.quantize(w, bits, scale="mse")) < 0.8 * left_by_first_scales(w, bits)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 7, 16, 31, 32, 33, 128, 256, 257, 4099, 16385])
def test_mse_has_the_same_bits_everywhere(kind: str, size: int) -> None:
    w = groups_of(kind, 37 if size < 1000 else 2, size)
    for bits in BITS:
        for symmetric in (True, False):
            same_everywhere(w, bits, scale="mse", symmetric=symmetric)
    flat = w.reshape(1, -1)
    for symmetric in (True, False):
        for group_size in (size, "tensor"):
            same_everywhere(flat, 4, scale="mse", symmetric=symmetric, group_size=group_size, scale_dtype="bfloat16")


@pytest.mark.promise("fault-D2", "fault-D15")
@pytest.mark.parametrize("scale_dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rule", ["absmax", "mse", "power_of_two"])
def test_ends_of_the_number_range_have_the_same_bits_everywhere(
    rule: str, symmetric: bool, scale_dtype: str
) -> None:
    rng = np.random.default_rng(5)
    least, top = {"float32": (-149, 127), "float16": (-24, 15), "bfloat16": (-133, 127)}[scale_dtype]
    normal = rng.standard_normal((120, 32))
    w = np.concatenate(
        [
            normal * 2.0 ** rng.uniform(least - 3, least + 12, (120, 1)),
            np.clip(normal, -1.9, 1.9) * 2.0 ** rng.uniform(top - 1, top - (rule == "power_of_two"), (120, 1)),
        ]
    ).astype(np.float32)
    for dtype in (np.float32, np.float16 if scale_dtype == "float16" else ml_dtypes.bfloat16):
        x = w.astype(dtype)
        x[~np.isfinite(x)] = 0
        for bits in (2, 3, 4, 8):
            same_everywhere(x, bits, scale=rule, symmetric=symmetric, scale_dtype=scale_dtype)


@pytest.mark.promise("fault-D11")
@pytest.mark.parametrize("bits", BITS)
def test_scales_of_either_sign_are_read_where_others_are(bits: int) -> None:
    """As sparse codes, in products with them, and recognized in decoded weights."""
    w = groups_of("pruned", 40, 96)
    q = qt.quantize(w, bits, group_size=32, scale="mse")
    assert q.scales.min() < 0 < q.scales.max()
    x = np.random.default_rng(1).standard_normal((3, 96)).astype(np.float32)
    for layout in ("bitmask", "csr"):
        stored = qt.sparse.from_dense(q, layout)
        assert [bits_of(a) for a in qt.sparse.to_dense(stored).arrays()] == [bits_of(a) for a in q.arrays()]
        assert np.allclose((stored @ x.T).T, x @ q.dequantize().T, atol=1e-4)
    found = qt.recognize_grid(q.dequantize(), group_size=32)
    assert found is not None
    assert found.bits <= max(bits, 2)
    assert bits_of(found.dequantize()) == bits_of(q.dequantize())
    scales = np.where(q.scales == 0, 1, q.scales)
    assert (np.sign(found.scales) == np.sign(scales))[q.scales != 0].all()


# Subnormal scales


@pytest.mark.promise("fault-D2")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("scale_dtype", "unit"), [("float32", -149), ("float16", -24), ("bfloat16", -133)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_subnormal_scales_are_those_of_least_error(bits: int, scale_dtype: str, unit: int, symmetric: bool) -> None:
    """Of the two multiples of 2**unit around the exact scale, exactly."""
    rng, least = np.random.default_rng(bits), 2.0**unit
    w = (rng.standard_normal((500, 32)) * 2.0 ** rng.uniform(unit - 2, unit + 7, (500, 1))).astype(np.float32)
    q = qt.quantize(w, bits, symmetric=symmetric, scale_dtype=scale_dtype)
    x = w.astype(np.float64) / least
    low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    steps = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
    span = np.maximum(-low, high) if symmetric else high - low
    options = []
    for scale in (np.floor(span / steps), np.ceil(span / steps)):
        divisor = np.where(scale == 0, 1, scale)
        zero = 0 if symmetric else np.clip(np.rint(-low / divisor), 0, steps) * (scale > 0)
        first, last = (-steps, steps) if symmetric else (-zero, steps - zero)
        codes = np.clip(np.rint(x / divisor[:, None]), np.reshape(first, (-1, 1)), np.reshape(last, (-1, 1)))
        options.append(((x - codes * scale[:, None]) ** 2).sum(-1))
    got = ((x - q.dequantize().astype(np.float64) / least) ** 2).sum(-1)
    normal = 2.0**-14 if scale_dtype == "float16" else 2.0**-126
    small = span / steps * least < normal
    assert small.sum() > 300
    assert (got <= np.minimum(*options) * (1 + 1e-6))[small].all()
    if bits > 2:  # of one step, float32 holds the scale itself
        assert ((options[0] > options[1]) & small).any()


@pytest.mark.promise("fault-D2")
def test_groups_of_absmax_1e_7_are_not_zeros_in_float16() -> None:
    """The figures of the report: 0.21 where 0.09 is possible, or zeros."""
    rng = np.random.default_rng(0)
    for absmax in (5e-8, 1e-7, 3e-7, 6e-7):
        w = rng.uniform(-1, 1, (200, 32)).astype(np.float32)
        w *= np.float32(absmax) / np.abs(w).max(-1, keepdims=True)
        power = (w.astype(np.float64) ** 2).sum(-1)
        for rule in ("absmax", "mse"):
            q = qt.quantize(w, 4, scale=rule, scale_dtype="float16")
            assert (np.abs(q.scales) >= 2.0**-24).all()
            noise = np.sqrt(errors(w, q) / power)
            assert noise.mean() < {5e-8: 0.63, 1e-7: 0.31, 3e-7: 0.1, 6e-7: 0.1}[absmax]


@pytest.mark.promise("fault-D2")
def test_lost_groups_are_counted(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    w = np.random.default_rng(0).uniform(-1, 1, (64, 64)).astype(np.float32)
    w[:, :32] *= np.float32(2.0**-24)  # within reach of the least scale
    w[3, 32:] *= np.float32(2.0**-26)  # not in reach
    w[5, 32:] *= np.float32(2.0**-26)
    save_file({"model.layers.0.mlp.up_proj.weight": w}, tmp_path / "a.safetensors")
    report = compress(
        tmp_path / "a.safetensors", tmp_path / "b.safetensors", bits=4, group_size=32, scale_dtype="float16"
    )
    notes = [str(note) for note in report.notes if "became zeros" in str(note)]
    assert len(notes) == 1
    assert "2 groups of weights too small" in notes[0]


# The largest weights


@pytest.mark.promise("fault-D15")
@pytest.mark.parametrize("rule", ["absmax", "mse"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_asymmetric_weights_near_the_largest_are_within_half_a_step(dtype: str, rule: str) -> None:
    """Where a code for the end would stand for more than the dtype holds, the grid changes, not the end. With "mse"
    the error is that of absmax at most."""
    kind = np.dtype(FLOATS[dtype])
    top = float(ml_dtypes.finfo(kind).max)
    rng = np.random.default_rng(1)
    rows = [[top, -top, top / 3, 0], [top, -0.999 * top, 1, 0], [-top, top / 2, 5, 0], [top, -top / 5, top / 7, 0]]
    rows += [[a * top, -b * top, 0.3 * a * top, 0] for a, b in rng.uniform(0.98, 1, (40, 2))]
    rows += [[top, -b * top, 0.3 * top, 0] for b in rng.uniform(0, 1, 40)]
    w = np.array(rows, np.float64).astype(kind)
    assert np.isfinite(w.astype(np.float64)).all()
    for bits in BITS:
        absmax = qt.quantize(w, bits, symmetric=False)
        q = qt.quantize(w, bits, symmetric=False, scale=rule)
        decoded = q.dequantize(dtype=kind).astype(np.float64)
        assert np.isfinite(decoded).all()
        x = w.astype(np.float64)
        if rule == "absmax":
            half_step = q.scales.astype(np.float64) * (0.5 + 2.0**-12)
            rounding = 2.0 ** -{"float16": 11, "float32": 24, "bfloat16": 8}[dtype] * np.abs(x)
            assert (np.abs(decoded - x) <= half_step + rounding).all(), bits
        else:
            before = (absmax.dequantize().astype(np.float64) / top - x / top) ** 2
            after = (q.dequantize().astype(np.float64) / top - x / top) ** 2
            assert (after.sum(-1) <= before.sum(-1) * (1 + ROUNDING)).all(), bits
