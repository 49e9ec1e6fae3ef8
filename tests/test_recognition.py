"""Weights that are already quantized come back bit for bit; those that do not are left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from functions import FLOATS, Array, bits_of

import quantrim as qt

by_dtype = pytest.mark.parametrize("dtype", FLOATS.values(), ids=list(FLOATS))


def weights(seed: int, rows: int = 5, cols: int = 96) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def recognized(w: Array, group_size: Any) -> qt.QuantizedTensor:
    """What is found; fails unless it decodes to every bit of w."""
    q = qt.recognize_grid(w, group_size=group_size)
    assert q is not None
    assert bits_of(q.dequantize(dtype=w.dtype)) == bits_of(w)
    return q


@by_dtype
@pytest.mark.parametrize("group_size", ["tensor", "channel", 32, 40])
@pytest.mark.parametrize("bits", range(2, 9))
def test_what_quantize_made(bits: int, group_size: Any, dtype: Any) -> None:
    """No more bits than before, and the same groups, for any dtype that the weights were stored in."""
    if bits == 8 and dtype == FLOATS["bfloat16"] and group_size != "tensor":
        group_size = "channel"  # enough weights to narrow down a scale as coarse as the codes
    w = qt.quantize(weights(bits, 40, 480), bits, group_size=group_size).dequantize(dtype=dtype)
    q = recognized(w, group_size)
    assert q.bits <= bits


@pytest.mark.parametrize("bits", range(2, 9))
def test_asymmetric_grids(bits: int) -> None:
    w = qt.quantize(weights(bits, 40, 480) + 1, bits, group_size=32, symmetric=False).dequantize()
    q = recognized(w, 32)
    assert q.bits <= bits


@by_dtype
def test_power_of_two_scales_and_given_ones(dtype: Any) -> None:
    grids: list[dict[str, Any]] = [{"scale": "power_of_two"}, {"scales": 0.0371}, {"scales": 2.0**-20}]
    for grid in grids:
        w = qt.quantize(weights(1, 8, 512), 4, **grid).dequantize(dtype=dtype)
        assert recognized(w, "channel").bits <= 4


@by_dtype
@pytest.mark.parametrize("name", ["nf4", "mxfp4", "mxint8", "binary", "ternary"])
def test_what_codebooks_made(name: str, dtype: Any) -> None:
    """Tables with one scale are few values; MX and ternary are uniform within groups."""
    group_size = None if name.startswith("mx") else "tensor"
    w = qt.quantize_codebook(weights(2, 8, 512), name, group_size=group_size).dequantize(dtype=dtype)
    q = recognized(w, group_size or 32)
    assert q.bits <= {"nf4": 4, "mxfp4": 5, "mxint8": 8, "binary": 1, "ternary": 2}[name]


def test_shared_weights() -> None:
    w = qt.cluster(weights(3, 20, 1000), 13).dequantize()
    q = recognized(w, "channel")
    assert q.bits == 4
    assert q.codebook is not None
    assert len(q.codebook) == 13


@by_dtype
def test_pruned_weights_keep_their_grid(dtype: Any) -> None:
    w = qt.prune(qt.quantize(weights(4, 8, 512), 4, group_size=32).dequantize(), 0.5).astype(dtype)
    assert recognized(np.where(w == 0, w.dtype.type(0), w), 32).bits <= 4


@by_dtype
def test_other_weights_are_left_alone(dtype: Any) -> None:
    for seed in range(5):
        assert qt.recognize_grid(weights(seed, 40, 480).astype(dtype), group_size="channel") is None
        assert qt.recognize_grid(weights(seed, 40, 480).astype(dtype), group_size="tensor") is None


@by_dtype
@pytest.mark.parametrize("where", [0, 1, 4000, -1])
def test_one_weight_off_the_grid_is_seen(where: int, dtype: Any) -> None:
    """By the least that the dtype can show."""
    w = qt.quantize(weights(5, 10, 480), 8, group_size="tensor").dequantize(dtype=dtype).reshape(-1)
    w[where] = np.nextafter(w.dtype.type(1.0), w.dtype.type(2.0)) * w.dtype.type(0.37)
    values = len(np.unique(w.astype(np.float32)))
    q = qt.recognize_grid(w, group_size="tensor")
    if q is not None:
        assert bits_of(q.dequantize(dtype=w.dtype)) == bits_of(w)
        assert q.codebook is None or values <= 256


def test_few_values_that_come_late() -> None:
    """Values beyond those of the first weights are found; the 257th means no."""
    rng = np.random.default_rng(6)
    values = rng.standard_normal(256).astype(np.float32)
    w = np.concatenate([np.full(5000, values[0]), rng.choice(values, 60_000), values])
    q = recognized(w, "tensor")
    assert q.bits == 8
    assert qt.recognize_grid(np.concatenate([w, [np.float32(0.123)]]).astype(np.float32)) is None


@pytest.mark.promise("A3", "A4")
@by_dtype
def test_zeros_of_both_signs(dtype: Any) -> None:
    assert recognized(np.zeros((3, 40), dtype), 32).nbytes < 3 * 40
    negative = np.zeros((3, 40), dtype)
    negative[:, 1:] = -0.0
    recognized(negative, 32)
    negative[:, 2] = 1
    assert qt.recognize_grid(negative) is None  # no code is both
    recognized(negative, 1)
    recognized(np.full((3, 40), -0.0, dtype), 32)
    recognized(np.array([[-0.0, 1.3, 2.7] * 10], dtype), "channel")


@pytest.mark.promise("A5")
@by_dtype
def test_subnormal_and_huge(dtype: Any) -> None:
    tiny, top = float(np.nextafter(np.zeros(1, dtype)[0], np.ones(1, dtype)[0])), 3e38 if dtype != np.float16 else 6e4
    for scale in (tiny, top / 7):
        w = (np.arange(-7, 8) * scale).astype(dtype)
        recognized(w, "tensor")


@pytest.mark.promise("A19")
@pytest.mark.parametrize("shape", [(0,), (0, 8), (8, 0), (3, 0, 4)])
def test_empty_arrays(shape: tuple[int, ...]) -> None:
    q = qt.recognize_grid(np.zeros(shape, np.float32))
    assert q is not None
    assert q.dequantize().shape == shape
