"""Non-uniform grids: tables of other projects, signs, k-means, or values of the caller's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import backend, checks
from .float_environment import default_floats
from .quantization import quantize, write_given_scales
from .tensor import (
    GroupSize,
    QuantizedTensor,
    blank,
    by_row,
    check_group_size,
    columns_per_group,
    reused,
    scales_shape,
)
from .words import CODEBOOKS, SCALE_DTYPES, CodebookName, Float

__all__ = ["cluster", "quantize_codebook"]

GROUP_SIZE, MX_GROUP_SIZE = 64, 32
# The table of Dettmers et al. 2023, appendix E, as float32; and that of bitsandbytes by code.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
FP4 = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)  # then these negated
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # then these negated


@dataclass(frozen=True)
class Book:
    """values: by code. edges: between neighbours in order, ranks -> codes by `order` unless it is None."""

    values: NDArray[np.float32]
    edges: NDArray[np.float32]
    order: NDArray[np.uint8] | None = None
    rule: str = "absmax"

    @property
    def bits(self) -> int:
        return max(1, (len(self.values) - 1).bit_length())

    @property
    def peak(self) -> float:
        return 4.0 if self.rule == "power_of_two" else float(np.abs(self.values).max())


@default_floats
def quantize_codebook(
    w: ArrayLike,
    codebook: CodebookName | ArrayLike,
    *,
    group_size: GroupSize | None = None,
    scales: ArrayLike | None = None,
    scale_dtype: Float = "float32",
    out: QuantizedTensor | None = None,
) -> QuantizedTensor:
    """Round weights to the nearest of a few values times a scale: w ~ codebook[code] * scale.

    w: (..., cols) float32, float16, bfloat16 or float64; groups run along the last axis.
    codebook: what to round to, and how the scale of a group is found:

        "nf4": the 16 quantiles of Dettmers et al. 2023, "QLoRA"; scale = absmax. The codes and scales of bitsandbytes,
            which has the first of two codes in the high half of a byte: `q.data >> 4 | q.data << 4` are its bytes.
            Groups of an absmax below 1e-38 differ (there it codes zeros), and the last group of a tensor may, if short.
        "fp4": bitsandbytes' floats of 4 bits; the same otherwise.
        "mxfp4": E2M1, scale = 2**(floor(log2(absmax)) - 2), in groups of 32; half to even, 0 is code 0.
        "mxint8": k / 64 with k = -127..127, scale = 2**floor(log2(absmax)), in groups of 32; half to even. Both by
            Rouhani et al. 2023, "OCP Microscaling formats (MX) specification". A grid of 8 bits with scales / 64.
        "binary": -1 and 1 (0 becomes 1), scale = mean(|w|), the best one (Rastegari et al. 2016, "XNOR-Net").
        "ternary": -1, 0 and 1 with the scale and threshold that have the least squared error of all (the problem of
            Li & Liu 2016, "Ternary weight networks", solved by sorting, not by their estimate). A grid of 2 bits.
        an array: 2..256 ascending values, float32; scale = absmax / max(|codebook|). A tie goes to the lower value.

    group_size: columns that share a scale, the last group of a row may be shorter; "channel": a row; "tensor": all.
        None: 64, or the 32 of MX.
    scales: None, or for "nf4", "fp4" and arrays positive scales that broadcast to those of the result.
    scale_dtype: "float16" or "bfloat16" rounds each scale to it before codes are computed; not for MX.
    out: a QuantizedTensor of the same shape, bits, group_size and codebook, to be filled and returned.

    A group of zeros has scale 0. NaN and infinity are a ValueError, and so is a scale beyond scale_dtype.

    >>> q = quantize_codebook(np.array([[0.5, -0.25, 0.0, 0.1]], np.float32), "nf4")
    >>> q.codes().tolist(), q.scales.tolist()
    ([[15, 2, 7, 9]], [[0.5]])
    >>> quantize_codebook(np.array([[3.0, -2.0, 0.25]], np.float32), "ternary").dequantize().tolist()
    [[2.5, -2.5, 0.0]]
    """
    name = checks.choice("codebook", codebook, CODEBOOKS) if isinstance(codebook, str) else ""
    scale_dtype = checks.choice("scale_dtype", scale_dtype, SCALE_DTYPES)
    size = _group_size(group_size, name)
    if name in ("mxfp4", "mxint8", "binary", "ternary") and scales is not None:
        raise ValueError(f"scales must be None for {name!r}, which finds its own")
    if name.startswith("mx") and scale_dtype != "float32":
        raise ValueError(f"scale_dtype must be 'float32' for {name!r} and its powers of two, not {scale_dtype!r}")
    x = checks.floats("w", w)
    if name == "mxint8":
        return _mxint8(x, out)
    if name == "ternary":
        return _ternary(x, size, scale_dtype, out)
    book = _tables[name]() if name else _book_of(codebook)
    if out is None:
        q = blank(x.shape, book.bits, size, codebook=book.values)
    else:
        q = reused(out, x, book.bits, size, codebook=book.values)
    if x.size == 0:
        q.data[...] = 0
    elif name == "binary":
        _mean_magnitudes(x, size, q.scales, scale_dtype)
        code(x, book, "none", scale_dtype, q)
    elif scales is not None:
        write_given_scales(scales, q.scales, scale_dtype)
        _check_reach(q, book, x)
        code(x, book, "scale", scale_dtype, q)
    else:
        code(x, book, book.rule, scale_dtype, q)
    return q


@default_floats
def cluster(
    w: ArrayLike, k: int = 16, *, group_size: GroupSize = "tensor", out: QuantizedTensor | None = None
) -> QuantizedTensor:
    """Cluster weights to k shared values of least squared error: one-dimensional k-means.

    w: (..., cols) float32, float16, bfloat16 or float64.
    k: 2..256 values; codes have the bits that k needs. Fewer distinct weights than k: exactly those.
    group_size: what shares a codebook: "tensor": everything, with a codebook of k values; "channel" (a row) or a number
        of columns: each its own, with a codebook of shape (*scales.shape, k). The scales are 1.
    out: a QuantizedTensor of the same shape, bits and group_size with a codebook of its own, to be filled and returned.

    The clusters of up to 65536 distinct weights are the best there are, by dynamic programming in float64 (Wang & Song
    2011, "Ckmeans.1d.dp"; Gronlund et al. 2017, "Fast exact k-means, k-medians and Bregman divergence clustering in
    1D"). Larger sets are cut the best way at 65536 places, dense where weights are many or far apart; Lloyd's iteration
    follows until nothing moves, or 1000 times: a local optimum, close to the best. Nothing is random. Weight sharing is
    from Han et al. 2015, "Deep compression". Needs 20 bytes of memory for each weight of a set.

    >>> q = cluster(np.array([[0.0, 0.1, 1.0, 1.1, 5.0]], np.float32), 3)
    >>> q.codes().tolist(), q.dequantize().tolist()[0][4]
    ([[0, 0, 1, 1, 2]], 5.0)
    """
    k = checks.integer("k", k, 2, 256)
    size = check_group_size(group_size)
    x = checks.floats("w", w)
    bits = (k - 1).bit_length()
    of_book = (k,) if size == "tensor" else (*scales_shape(x.shape, size), k)
    if out is None:
        q = blank(x.shape, bits, size, codebook=np.zeros(of_book, np.float32))
    else:
        q = reused(out, x, bits, size, codebook=of_book)
    assert q.codebook is not None
    q.scales[...] = 1
    if x.size == 0:
        q.data[...], q.codebook[...] = 0, 0
        return q
    seen = x.reshape(1, -1) if size == "tensor" else checks.rows(x)
    group = columns_per_group(size, seen.shape[1])
    checks.finite("w", x, backend.active.fit_clusters(seen, group, k, q.codebook.reshape(len(seen), -1, k)))
    code(x, Book(q.codebook, ascending_edges(q.codebook)), "none", "float32", q)
    return q


def ascending_edges(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Find the edges between ascending values, (..., n) -> (..., n - 1): the largest float32 at or below the exact
    middle of each two neighbours.

    So a weight is above an edge if and only if it is nearer to the upper value.
    """
    a, b = values[..., :-1].astype(np.float64), values[..., 1:].astype(np.float64)
    total = a + b
    rest = (a - (total - (total - a))) + (b - (total - a))  # what rounding the sum left out (Knuth's two-sum)
    edge = (total / 2).astype(np.float32)
    above = (edge > total / 2) | ((edge == total / 2) & (rest < 0))
    return np.where(above, np.nextafter(edge, np.float32(-np.inf)), edge)


def _floats_by_code(positive: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array([*positive, *(0 - x for x in positive)], np.float32)  # 0, not -0


def _nf4() -> Book:
    values = np.array(NF4, np.float32)
    return Book(values, (values[1:] + values[:-1]) * np.float32(0.5))


def _fp4() -> Book:
    """Make the Book of "fp4". Both zeros have a rank, as in bitsandbytes: tiny positive weights get the second."""
    values = _floats_by_code(FP4)
    order = np.array([11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3], np.uint8)
    ranked = values[order]
    return Book(values, (ranked[1:] + ranked[:-1]) * np.float32(0.5), order)


def _mxfp4() -> Book:
    """Make the Book of "mxfp4". Of two neighbours the even code takes the tie: edges are the middle, or just below."""
    order = np.array([15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7, 0], np.uint8)
    values = _floats_by_code(E2M1)
    ranked = values[order[:15]]
    middle = (ranked[1:] + ranked[:-1]) / 2
    upper_takes_ties = order[1:15] % 2 == 0
    return Book(values, np.where(upper_takes_ties, np.nextafter(middle, np.float32(-9)), middle), order, "power_of_two")


def _binary() -> Book:
    """Make the Book of "binary". The only edge is just below 0, so that 0 and -0 become 1."""
    return Book(np.array([-1, 1], np.float32), np.array([np.nextafter(np.float32(0), np.float32(-1))]))


_tables = {"nf4": _nf4, "fp4": _fp4, "mxfp4": _mxfp4, "binary": _binary}


def table(name: str) -> Book:
    """Return the Book of "nf4", "fp4", "mxfp4" or "binary"."""
    return _tables[name]()


def check_codebook(name: str, codebook: object) -> str | tuple[float, ...]:
    """Return a codebook as `quantize_codebook` takes it: one of its names, or a tuple of float32 values."""
    if isinstance(codebook, str):
        return checks.choice(name, codebook, CODEBOOKS)
    return tuple(map(float, _book_of(codebook).values))


def _book_of(codebook: object) -> Book:
    values = checks.floats("codebook", codebook).astype(np.float32)
    if values.ndim != 1 or not 2 <= values.size <= 256:
        raise ValueError(f"codebook must be a name or 2..256 values in one axis, not have shape {values.shape}")
    checks.finite("codebook", values, bool(np.isfinite(values).all()))
    ascends = values[1:] > values[:-1]
    if not ascends.all():
        at = int((~ascends).argmax()) + 1
        step = f"from {values[at - 1]} to {values[at]} at index {at}"
        raise ValueError(f"codebook must be strictly increasing, not go {step}")
    return Book(values, ascending_edges(values))


def _group_size(group_size: object, name: str) -> GroupSize:
    if group_size is None:
        return MX_GROUP_SIZE if name.startswith("mx") else GROUP_SIZE
    size = check_group_size(group_size)
    if name.startswith("mx") and size != MX_GROUP_SIZE:
        raise ValueError(f"group_size must be {MX_GROUP_SIZE} for {name!r}, not {size!r}")
    return size


def _check_reach(q: QuantizedTensor, book: Book, x: checks.Array) -> None:
    """Raise where given scales let a value of the codebook overflow the dtype of the weights."""
    reach, most = float(q.scales.max()) * book.peak, checks.LARGEST[x.dtype.name]
    if reach > most:
        raise ValueError(f"scales times the largest value of codebook must fit {x.dtype}, at most {most}, not {reach}")


def _round_scales(scales: checks.Array, scale_dtype: str, x: checks.Array, into: NDArray[np.float32]) -> None:
    """Round scales to scale_dtype, but not beyond what the dtype of x holds, and write them."""
    with np.errstate(over="ignore"):
        rounded = scales.astype(np.float32).astype(np.dtype(scale_dtype)).reshape(into.shape)
        beyond = np.isfinite(rounded) & (rounded.astype(np.float32) > checks.LARGEST[x.dtype.name])
        into[...] = np.where(beyond, np.nextafter(rounded, rounded.dtype.type(0)), rounded)
    _check_scales(into, scale_dtype)


def _check_scales(scales: NDArray[np.float32], scale_dtype: str) -> None:
    if not np.isfinite(scales).all():
        at = int(np.isinf(scales).ravel().argmax())
        raise checks.ScaleOverflowError(f"scale of group {at} overflows {scale_dtype}")


def code(x: checks.Array, book: Book, rule: str, scale_dtype: str, q: QuantizedTensor) -> None:
    """Find scales where the rule does, and codes."""
    seen, data = checks.rows(x), checks.rows(q.data)
    group = columns_per_group(q.group_size, x.shape[-1])
    scales = by_row(q.scales, len(seen))
    run = backend.active.quantize_codebook
    if q.group_size == "tensor" and rule not in ("scale", "none"):
        of_rows = np.empty_like(scales)
        edges = book.edges, book.order, q.bits
        checks.finite("w", x, run(seen, group, rule, scale_dtype, book.peak, *edges, None, of_rows))
        q.scales[...] = of_rows.max()
        scales, rule = by_row(q.scales, len(seen)), "scale"
    checks.finite("w", x, run(seen, group, rule, scale_dtype, book.peak, book.edges, book.order, q.bits, data, scales))
    _check_scales(q.scales, scale_dtype)


def _mean_magnitudes(x: checks.Array, size: GroupSize, scales: NDArray[np.float32], scale_dtype: str) -> None:
    seen = checks.rows(x)
    group = columns_per_group(size, x.shape[-1])
    sums = np.empty((len(seen), -(-x.shape[-1] // group)))
    checks.finite("w", x, backend.active.magnitude_sums(seen, group, sums))
    if size == "tensor":
        return _round_scales(np.array(math.fsum(sums.ravel()) / x.size), scale_dtype, x, scales)
    counts = np.minimum(group, x.shape[-1] - np.arange(sums.shape[1]) * group)
    return _round_scales(sums / counts, scale_dtype, x, scales)


def _ternary(x: checks.Array, size: GroupSize, scale_dtype: str, out: QuantizedTensor | None) -> QuantizedTensor:
    """Code weights as 1, 2, 3 of 2 bits: -1, 0, 1 counted from zero."""
    q = blank(x.shape, 2, size) if out is None else reused(out, x, 2, size)
    if x.size == 0:
        q.data[...] = 0
        return q
    seen = x.reshape(1, -1) if size == "tensor" else checks.rows(x)
    group = columns_per_group(size, seen.shape[1])
    scales = np.empty((len(seen), -(-seen.shape[1] // group)), np.float32)
    edges = np.empty((*scales.shape, 2), np.float32)
    checks.finite("w", x, backend.active.fit_ternary(seen, group, edges, scales))
    _round_scales(scales, scale_dtype, x, q.scales)
    order = np.array([1, 2, 3] + [0] * 13, np.uint8)
    code(x, Book(np.zeros(3, np.float32), edges, order), "none", scale_dtype, q)
    return q


def _mxint8(x: checks.Array, out: QuantizedTensor | None) -> QuantizedTensor:
    """Code weights on a symmetric grid of 8 bits whose scales are powers of two."""
    q = blank(x.shape, 8, MX_GROUP_SIZE) if out is None else reused(out, x, 8, MX_GROUP_SIZE)
    if x.size == 0:
        q.data[...] = 0
        return q
    seen = checks.rows(x)
    scales = np.empty((len(seen), -(-x.shape[-1] // MX_GROUP_SIZE)), np.float32)
    edge = np.zeros(1, np.float32)
    group = columns_per_group(MX_GROUP_SIZE, x.shape[-1])
    run = backend.active.quantize_codebook
    checks.finite("w", x, run(seen, group, "power_of_two", "float32", 1.0, edge, None, 8, None, scales))
    steps = (scales / 64).reshape(q.scales.shape)
    quantize(x, 8, group_size=MX_GROUP_SIZE, scales=np.where(steps > 0, steps, np.float32(1)), out=q)
    q.scales[...] = steps
    return q
