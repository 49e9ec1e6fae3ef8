"""Float weights on integer grids of 2 to 8 bits, and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import backend, checks
from .float_environment import default_floats
from .tensor import GroupSize, QuantizedTensor, blank, by_row, check_group_size, columns_per_group, reused
from .words import NONFINITE, ROUNDINGS, SCALE_DTYPES, SCALE_RULES, Float, NonFinite, Rounding, ScaleRule

__all__ = ["dequantize", "quantize", "round_to_int"]


@default_floats
def quantize(
    w: ArrayLike,
    bits: int = 8,
    *,
    group_size: GroupSize = "channel",
    symmetric: bool = True,
    scale: ScaleRule = "absmax",
    scales: ArrayLike | None = None,
    rounding: Rounding = "even",
    nonfinite: NonFinite = "raise",
    scale_dtype: Float = "float32",
    seed: int = 0,
    out: QuantizedTensor | None = None,
) -> QuantizedTensor:
    """Round weights to a grid of `bits` bits: code = clip(round(w / scale)) + zero_point.

    w: (..., cols) float32, float16, bfloat16, or float64, which is narrowed to float32 and refused where it overflows
        that; groups run along the last axis.
    bits: 2..8.
    group_size: columns that share a scale; the last group of a row may be shorter. "channel": a row. "tensor": all.
    symmetric: codes within +-(2**(bits-1) - 1) of zero, scale = absmax / (2**(bits-1) - 1), unless scale is "mse".
        Otherwise all 2**bits codes span min(w, 0)..max(w, 0), with a zero point that maps to exact 0.
    scale: "absmax"; "mse", least squares, see below; or "power_of_two", absmax rounded up to 2**n.
    scales: positive scales of your own in place of that rule, which broadcast to those of the result.
    rounding: "even" (half to even), "away" (half away from zero), "floor", or "stochastic": floor(x + u) with u from
        `seed` and the position of the weight (Gupta et al. 2015).
    nonfinite: "raise" a ValueError at NaN or infinity; "zero": count them as 0; "saturate": NaN as 0, infinities as the
        largest finite magnitude of w.
    scale_dtype: "float16" or "bfloat16" rounds each scale to it before codes are computed, for files that store it so.
        A scale or a weight that overflows it is a ValueError. A group whose weights are all within half of its least
        positive value has scale 0 and decodes to zeros.
    out: a QuantizedTensor of the same shape, bits and group_size, to be filled and returned.

    "mse" has symmetric codes of the whole range -2**(bits-1)..2**(bits-1) - 1 and scales of either sign: for codes q
    the best scale is sum(w q) / sum(q q), and of the codes of a few first scales those are taken that leave the least
    error. The first scales are -e / k, e the weight of largest magnitude (the negative one of two), k from
    2**(bits-1) - 1, which is absmax, in six steps of 3/8 (1/4 with 7 bits, 1/2 with 8), then 9/8 times the last k as
    long as that was the best (32 at most). Asymmetric: the span divided by k from 2**bits - 1 on, in steps of about 3/8
    (up to 1 with 8 bits), and so on; then one step less and one more for the zero point, and the scale that was found
    is a first scale itself. The earliest is kept among equals. As in llama.cpp's k-quants, and Lloyd 1957, "Least
    squares quantization in PCM". With rounding "even" no group has more error than with "absmax", whose grid is taken
    where it is better. Code 0 of a negative scale decodes to -0.0, as (code - zero) * scale does elsewhere; a group of
    zeros has scale +0.

    Error with "absmax" and "even": half a step (the scale) and some roundings of float32, also where a code for the far
    end would decode to more than the dtype of w or of the scales holds. A scale that is rounded to `scale_dtype`
    moves the far end of an asymmetric group by 2**bits - 1 times that rounding: with bfloat16 and 8 bits the ends can
    be missed by 1.5 steps. Subnormal scales are multiples of u = 2**-149 (2**-24 in float16, 2**-133 in bfloat16): of
    the two around the exact one, with "absmax" and "mse", that with the least squared error; weights between the ends
    are then within half a step, and an end within half a step and u for each of the steps to it.

    Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference".

    >>> q = quantize(np.array([[3.5, -7.0, 1.75, 0.0]], np.float32), bits=4, group_size=2)
    >>> q.codes().tolist(), q.scales.tolist()
    ([[4, -7, 7, 0]], [[1.0, 0.25]])
    """
    bits = checks.integer("bits", bits, 2, 8)
    group_size = check_group_size(group_size)
    symmetric = checks.flag("symmetric", symmetric)
    rounding = checks.choice("rounding", rounding, ROUNDINGS)
    scale_dtype = checks.choice("scale_dtype", scale_dtype, SCALE_DTYPES)
    seed = checks.integer("seed", seed, 0, 2**64 - 1)
    x = _cleaned(checks.floats("w", w), checks.choice("nonfinite", nonfinite, NONFINITE))
    if out is None:
        q = blank(x.shape, bits, group_size, symmetric=symmetric)
    else:
        q = reused(out, x, bits, group_size, symmetric=symmetric)
    rule = _scale_rule(scale, scales, q.scales, scale_dtype)
    if x.size == 0:
        q.data[...] = 0
        return q
    seen, data = checks.rows(x), checks.rows(q.data)
    if group_size == "tensor":
        seen, data = _in_long_rows(seen, data, bits)
        _fit_tensor(x, symmetric, rule, scale_dtype, q)
        rule = "full" if rule == "mse" else "given"
    into = data, by_row(q.scales, len(seen)), by_row(q.zero_points, len(seen))
    group = columns_per_group(group_size, seen.shape[1])
    run = backend.active.quantize
    checks.finite("w", x, run(seen, bits, group, symmetric, rule, scale_dtype, rounding, seed, *into))
    if scale_dtype != "float32":
        _check_scales_fit(q, x, scale_dtype)
    return q


def dequantize(q: QuantizedTensor, *, dtype: DTypeLike = np.float32, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Decode codes to weights: (code - zero_point) * scale, or codebook[code] * scale, in float32; then `dtype`.

    q: a QuantizedTensor. dtype: float32, float16 or bfloat16. out: an array of q.shape, whose dtype then counts.
    Returns an array of q.shape. Where the scale is negative, the code of zero gives -0.0, as in compressed-tensors.

    >>> q = quantize(np.array([[7.0, -3.0]], np.float32), bits=4)
    >>> dequantize(q)
    array([[ 7., -3.]], dtype=float32)
    """
    if not isinstance(q, QuantizedTensor):
        raise TypeError(f"q must be a QuantizedTensor, not {type(q).__name__}")
    return q.dequantize(dtype, out=out)


@default_floats
def round_to_int(
    w: ArrayLike,
    multiplier: float,
    *,
    offset: int = 0,
    bits: int = 8,
    signed: bool = True,
    rounding: Rounding = "even",
    seed: int = 0,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Round to unpacked integers, the plain step under every uniform grid: clip(round(w * multiplier) + offset).

    w: any shape. multiplier: finite, a power of two for fixed point. offset: -65536..65536, added after rounding.
    bits: 1..8, signed or not: the range that results are clipped to. rounding, seed: as in `quantize`.
    Returns int8 (signed) or uint8 of w's shape.

    >>> round_to_int([0.3, -0.8, 9.0], 4, bits=4).tolist()
    [1, -3, 7]
    >>> round_to_int([0.0, 0.4, 1.0], 2, offset=-1).tolist()  # round(2 w) - 1: 0..1 becomes -1, 0, 1
    [-1, 0, 1]
    >>> u = 7  # round(u w) - u: 0..1 becomes -7..0
    >>> round_to_int([0.0, 0.5, 1.0], u, offset=-u, bits=4).tolist()
    [-7, -3, 0]
    >>> round_to_int([0.7], 2**3, bits=4).tolist()  # fixed point: three bits after the point
    [6]
    """
    x = checks.floats("w", w)
    factor = checks.number("multiplier", multiplier, -_FLOAT32_MAX, _FLOAT32_MAX)
    offset = checks.integer("offset", offset, -(2**16), 2**16)
    bits = checks.integer("bits", bits, 1, 8)
    signed = checks.flag("signed", signed)
    rounding = checks.choice("rounding", rounding, ROUNDINGS)
    seed = checks.integer("seed", seed, 0, 2**64 - 1)
    codes = checks.output(out, x.shape, np.int8 if signed else np.uint8, x)
    run = backend.active.round_to_int
    checks.finite("w", x, run(x.ravel(), factor, offset, bits, signed, rounding, seed, codes.ravel()))
    return codes


_FLOAT32_MAX = checks.LARGEST["float32"]
_LEAST_SCALE = 2.0**-149


def _cleaned(x: checks.Array, nonfinite: str) -> checks.Array:
    """Return x with NaN and infinities replaced, where the caller asked for that."""
    if nonfinite == "raise" or backend.active.is_finite(x.ravel()):
        return x
    kept = np.where(np.isfinite(x), x, x.dtype.type(0))
    if nonfinite == "saturate":
        top = np.abs(kept).max()
        kept = np.where(np.isinf(x), np.copysign(top, x).astype(x.dtype), kept)
    return kept


def _scale_rule(
    scale: ScaleRule, scales: ArrayLike | None, into: NDArray[np.float32], scale_dtype: Float
) -> str:
    """Return the kernel's word for how scales are found; given ones are written to `into`."""
    if scales is None:
        return checks.choice("scale", scale, SCALE_RULES)
    if scale != "absmax":
        raise ValueError(f"scale must be left out where scales are given, not {scale!r}")
    write_given_scales(scales, into, scale_dtype)
    return "scale"


def write_given_scales(scales: ArrayLike, into: NDArray[np.float32], scale_dtype: Float) -> None:
    """Write positive scales of the caller's, rounded to scale_dtype, to `into`, to which they broadcast."""
    if type(scales) is float and scale_dtype == "float32" and _LEAST_SCALE <= scales <= _FLOAT32_MAX:
        into.fill(scales)  # one for all, in a tenth of the time
        return
    given = checks.floats("scales", np.atleast_1d(checks.array("scales", scales))).astype(np.float32, copy=False)
    with np.errstate(over="ignore"):
        given = given.astype(np.dtype(scale_dtype)).astype(np.float32)
    bad = ~(given > 0) | np.isinf(given)
    if bad.any():
        at = int(bad.ravel().argmax())
        worst = given.ravel()[at]
        raise ValueError(f"scales must be positive and finite in {scale_dtype}, not {worst} at flat index {at}")
    try:
        into[...] = given
    except ValueError:
        raise ValueError(f"scales must broadcast to shape {into.shape}, not have shape {given.shape}") from None


def _in_long_rows(x: checks.Array, data: checks.Array, bits: int) -> tuple[checks.Array, checks.Array]:
    """View weights and codes in fewer rows, of which threads still get their shares.

    Only rows of whole bytes can be joined, and only where no group ends with them.
    """
    rows = math.gcd(len(x), 64)
    if x.shape[1] * bits % 8 or rows < 16:
        return x, data
    return x.reshape(rows, -1), data.reshape(rows, -1)


def _fit_tensor(x: checks.Array, symmetric: bool, rule: str, scale_dtype: str, q: QuantizedTensor) -> None:
    """Write the one scale and zero point of a whole tensor to q."""
    if rule == "scale" and symmetric:
        return
    one = q.scales.reshape(1)
    zero = None if q.zero_points is None else q.zero_points.reshape(1)
    fitted = backend.active.fit_tensor(x.ravel(), q.bits, symmetric, rule, scale_dtype, one, zero)
    checks.finite("w", x, fitted)


def _check_scales_fit(q: QuantizedTensor, x: checks.Array, scale_dtype: str) -> None:
    """Raise where scales overflow their dtype, or that of the weights: readers of such scales compute in it."""
    if not np.isfinite(q.scales).all():
        at = int(np.isinf(q.scales).ravel().argmax())
        raise checks.ScaleOverflowError(f"scale of group {at} overflows {scale_dtype}; use scale_dtype='float32'")
    most = checks.LARGEST[scale_dtype]
    if float(np.abs(q.scales).max()) * 2**q.bits <= most or x.dtype == np.float16:
        return  # no code can decode to more
    beyond = np.abs(x.astype(np.float32)) > most
    if beyond.any():
        at = int(beyond.argmax())
        raise checks.ScaleOverflowError(
            f"w overflows {scale_dtype}, in which readers of such scales compute: {float(x.ravel()[at])} "
            f"at flat index {at}; use scale_dtype='float32'"
        )
