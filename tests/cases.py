"""One row per kernel. The tests and the benchmarks both walk this table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from kernel_case import DTYPES, Array, Case, Out, largest, plain, weights
from sparse_cases import PLACES, sparse_check, sparse_decode, sparse_encode, sparse_product, sparse_weights


def scores_like(w: Array) -> Array:
    return np.asarray(w, np.float32) - np.float32(0.25)


def lowest(kernel: str, part: float, absolute: bool) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        w = weights(rng, r, c, d)
        count = round(part * c)
        if kernel == "lowest_mask":
            return w, count, absolute, Out((r, c), np.bool_)
        return w, w if absolute else scores_like(w), count, absolute, Out((r, c), d)

    return make


def n_of_m(n: int, m: int, absolute: bool, mask: bool = False) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        w = weights(rng, r, c, d).reshape(-1)
        if mask:
            return w, n, m, absolute, Out(w.shape, np.bool_)
        return w, w if absolute else scores_like(w), n, m, absolute, Out(w.shape, d)

    return make


def grid(
    bits: int,
    group: int,
    symmetric: bool,
    rule: str = "absmax",
    scale_dtype: str = "float32",
    rounding: str = "even",
    of: Callable[..., Array] = weights,
) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        size = min(group, c) or c
        groups = -(-c // size)
        scales: Any = Out((r, groups), np.float32)
        zeros: Any = None if symmetric else Out((r, groups), np.uint8)
        if rule in ("scale", "given", "full"):
            scales = rng.random((r, groups), np.float32) + np.float32(0.01)
        if rule in ("given", "full"):
            scales *= rng.choice(np.array([-1, 1], np.float32), scales.shape)
        if rule in ("given", "full") and not symmetric:
            zeros = rng.integers(0, 2**bits, (r, groups)).astype(np.uint8)
        data = Out((r, -(-c * bits // 8)), np.uint8)
        return of(rng, r, c, d), bits, size, symmetric, rule, scale_dtype, rounding, 7, data, scales, zeros

    return make


def whole(rule: str, symmetric: bool) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        zero = None if symmetric else Out((1,), np.uint8)
        return weights(rng, r, c, d).reshape(-1), 5, symmetric, rule, "float16", Out((1,), np.float32), zero

    return make


def decode(bits: int, group: int, symmetric: bool) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        size = min(group, c) or c
        groups = -(-c // size)
        data = rng.integers(0, 256, (r, -(-c * bits // 8))).astype(np.uint8)
        zeros = None if symmetric else rng.integers(0, 2**bits, (r, groups)).astype(np.uint8)
        scales = rng.random((r, groups), np.float32) - np.float32(0.5)
        return data, bits, size, scales, zeros, Out((r, c), d)

    return make


def blocks(rows: int, cols: int, power: int) -> Callable[..., tuple[Any, ...]]:
    """Blocks of rows x cols; 0 stands for all of them."""

    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        height, width = rows or r, cols or c
        bands = -(-r // height)
        return weights(rng, bands * height, c, d), height, width, power, Out((bands, c // width), np.float32)

    return make


NF4_EDGES = np.array(
    [-0.8480964, -0.61063296, -0.45999527, -0.33967942, -0.2346074, -0.13791174, -0.04552502, 0.03979015,
     0.12025525, 0.20352125, 0.29201376, 0.38931254, 0.5016634, 0.6427869, 0.8614784],
    np.float32,
)  # fmt: skip
E2M1_ORDER = np.array([15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7, 0], np.uint8)
E2M1_EDGES = np.array([-5, -3.5, -2.5, -1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32)


def book(
    edges: Array | int,
    group: int,
    rule: str,
    bits: int,
    order: Array | None = None,
    apart: bool = False,
    **options: Any,
) -> Callable[..., tuple[Any, ...]]:
    """edges: or how many random ones; apart: other edges for each group; fit: scales alone."""

    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        size = min(group, c) or c
        groups = -(-c // size)
        e = edges
        if isinstance(e, int):
            e = np.sort(rng.standard_normal((r, groups, e) if apart else e).astype(np.float32), -1)
        data = None if "fit" in options else Out((r, -(-c * bits // 8)), np.uint8)
        given = rng.random((r, groups), np.float32) * np.where(rng.random((r, groups)) < 0.2, np.float32(0), 1)
        scales = Out((r, groups), np.float32) if rule not in ("scale", "none") else given.astype(np.float32)
        dtype = options.get("scale_dtype", "float32")
        return weights(rng, r, c, d), size, rule, dtype, options.get("peak", 1.0), e, order, bits, data, scales

    return make


def factors(by_row: bool) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        factor = rng.choice(np.array([0, 1, 0.3, 1e-30], np.float32), r if by_row else c)
        return weights(rng, r, c, d), factor, by_row, Out((r, c), d)

    return make


def book_values(bits: int, count: int, group: int, apart: bool = False) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        size = min(group, c) or c
        groups = -(-c // size)
        data = rng.integers(0, 256, (r, -(-c * bits // 8))).astype(np.uint8)
        values = rng.standard_normal((r, groups, count) if apart else count).astype(np.float32)
        return data, bits, size, values, rng.random((r, groups), np.float32), Out((r, c), d)

    return make


def bins(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
    lift = rng.choice(np.array([1, 1, 0.5, 2.0**100], np.float32), c)
    low, scale = weights(rng, 1, c, np.float32)[0], np.abs(weights(rng, 1, c, np.float32)[0]) * 5
    return weights(rng, r, c, d), lift, low, scale, Out((c, 13), np.int64)


def squares(factor: float, positive: bool) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        w, h = weights(rng, r, c, d).reshape(-1), weights(rng, r, c, d).reshape(-1)
        return w, np.abs(h) if positive else h, factor, positive, Out((r * c,), np.float32)

    return make


def clusters(k: int, group: int, most_rows: int) -> Callable[..., tuple[Any, ...]]:
    """Few rows: dynamic programming in numpy takes its time. One holds even steps, an odd number of which ties."""

    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        size = min(group, c) or c
        w = weights(rng, r, c, d)[:most_rows]
        w[2:3] = np.arange(c) - c // 2
        return w, size, k, Out((len(w), -(-c // size), k), np.float32)

    return make


def softmax_layer(samples: int, classes: int) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        w, x = rng.standard_normal((classes, c), np.float32), rng.standard_normal((samples, c), np.float32)
        x[0], w[0, : c // 2] = 0, 0
        x[-1] *= 40  # probabilities of 0 and 1
        labels = rng.integers(0, classes, samples)
        return w, x, labels, rng.standard_normal(classes, np.float32), Out((classes, c), np.float32)

    return make


def ternary(group: int) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        size = min(group, c) or c
        groups = -(-c // size)
        w = weights(rng, r, c, d)
        w[: r // 3] = 0  # groups of nothing, too
        return w, size, Out((r, groups, 2), np.float32), Out((r, groups), np.float32)

    return make


def counted(absolute: bool, upper: int | None) -> Callable[..., tuple[Any, ...]]:
    return lambda rng, r, c, d: (weights(rng, r, c, d).reshape(-1), absolute, upper, Out((1 << 16,), np.int64))


def below(prune: bool, absolute: bool, ties: int) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        w = weights(rng, r, c, d).reshape(-1)
        cut = int(np.float32(0.5).view(np.int32))  # a value that is among the special ones
        if prune:
            return w, w if absolute else scores_like(w), absolute, cut, ties, Out((r * c,), d)
        return w, absolute, cut, ties, Out((r * c,), np.bool_)

    return make


def on_grids(group: int) -> Callable[..., tuple[Any, ...]]:
    """Every second row has been on a grid, of a scale of either sign: all weights, some or none are 0."""

    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        size = min(group, c) or c
        w = weights(rng, r, c, d)[:13]
        outs = [Out((len(w), -(-c // size)), t) for t in (np.float32, np.int32, np.int32)] + [Out(w.shape, np.uint8)]
        scale = rng.random((len(w[::2]), 1), np.float32) + np.float32(0.01)
        scale *= rng.choice(np.array([-1, 1], np.float32), scale.shape)
        w[::2] = (rng.integers(-7, 9, w[::2].shape) * scale).astype(d)
        w[::4] = (rng.integers(1, 200, w[::4].shape) * scale[::2]).astype(d)
        return w, size, *outs

    return make


def pair(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
    w = weights(rng, r, c, d)
    return w, (np.asarray(w, np.float32) * np.float32(1.01)), Out((r, 5), np.float64)


def lesson(
    teachers: int, labelled: bool, temperature: float, alpha: float, masked: bool = False
) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        mixed = [d, *(t for t in DTYPES.values() if t is not d)][:teachers]
        student, *others = (weights(rng, r, c, t) for t in (d, *mixed))
        labels = rng.integers(0, c, r) if labelled else None
        if masked:  # a third of the classes, but for the labels; every fourth row has none
            marks = rng.random((r, c)) < 1 / 3
            marks[np.arange(r), labels] = False
            labels[::4] = -1
            for a in (student, *others):
                a[marks] = -np.inf
        return student, others, labels, temperature, alpha, Out((r,), np.float64), Out((r, c), np.float32)

    return make


CASES = [
    Case("magnitude", lambda g, r, c, d: (weights(g, r, c, d).reshape(-1), Out((r * c,), np.float32))),
    Case(
        "product_magnitude",
        lambda g, r, c, d: (*(weights(g, r, c, d).reshape(-1) for _ in "ab"), Out((r * c,), np.float32)),
    ),
    Case("wanda", lambda g, r, c, d: (weights(g, r, c, d), g.random(c, np.float32), Out((r, c), np.float32))),
    Case("norm_rows", lambda g, r, c, d: (weights(g, r, c, d), 1, Out((r,), np.float32))),
    Case("norm_rows-squares", lambda g, r, c, d: (weights(g, r, c, d), 2, Out((r,), np.float32)), "norm_rows"),
    Case("norm_columns", lambda g, r, c, d: (weights(g, r, c, d)[None], 1, Out((1, c), np.float32))),
    Case(
        "norm_columns-squares",
        lambda g, r, c, d: (weights(g, 2 * r, c, d).reshape(2, r, c), 2, Out((2, c), np.float32)),
        "norm_columns",
    ),
    Case(
        "norm_columns-tall",  # four rows of a lane at a visit, then single ones
        lambda g, r, c, d: (weights(g, 40 * r + 7, c, d)[None], 2, Out((1, c), np.float32)),
        "norm_columns",
    ),
    Case("uniform", lambda g, r, c, d: (2**63 + 5, 1, Out((r * c,), np.float32)), typed=False),
    *(Case(f"threshold-{mode}", plain(0.5, mode), "threshold") for mode in ("magnitude", "signed", "soft")),
    Case("threshold-soft-inexact", plain(0.3, "soft"), "threshold"),
    Case("apply_mask", lambda g, r, c, d: (weights(g, r, c, d).reshape(-1), g.random(r * c) < 0.5, Out((r * c,), d))),
    Case("count_nonzero", lambda g, r, c, d: (weights(g, r, c, d).reshape(-1),)),
    Case("is_finite", lambda g, r, c, d: (weights(g, r, c, d).reshape(-1),)),
    Case("lowest_mask", lowest("lowest_mask", 0.5, False)),
    Case("lowest_mask-absolute", lowest("lowest_mask", 0.3, True), "lowest_mask"),
    Case("prune_lowest", lowest("prune_lowest", 0.5, True)),
    Case("prune_lowest-scores", lowest("prune_lowest", 0.9, False), "prune_lowest"),
    Case("n_of_m_mask", n_of_m(2, 4, False, mask=True), multiple=4),
    *(
        Case(f"prune_n_of_m-{n}:{m}", n_of_m(n, m, m % 3 > 0), "prune_n_of_m", multiple=m)
        for n, m in ((2, 4), (1, 4), (3, 4), (1, 2), (3, 7), (4, 16), (5, 17), (31, 32))
    ),
    *(
        Case(
            f"pack-{b}",
            lambda g, r, c, d, b=b: (
                g.integers(0, 2**b, (r, c)).astype(np.uint8),
                b,
                Out((r, -(-c * b // 8)), np.uint8),
            ),
            "pack",
            typed=False,
        )
        for b in range(1, 9)
    ),
    *(
        Case(
            f"unpack-{b}",
            lambda g, r, c, d, b=b: (
                g.integers(0, 256, (r, -(-c * b // 8))).astype(np.uint8),
                b,
                Out((r, c), np.uint8),
            ),
            "unpack",
            typed=False,
        )
        for b in range(1, 9)
    ),
    Case(
        "ranges",
        lambda g, r, c, d: (
            weights(g, r, c, d),
            32,
            Out((r, -(-c // 32)), np.float32),
            Out((r, -(-c // 32)), np.float32),
        ),
    ),
    *(Case(f"quantize-{b}", grid(b, 32, b % 2 == 0), "quantize") for b in range(2, 9)),
    Case("quantize-8-channel", grid(8, 0, True), "quantize"),
    Case("quantize-4-channel-asymmetric", grid(4, 0, False), "quantize"),
    Case("quantize-3-channel-power_of_two", grid(3, 0, True, "power_of_two"), "quantize"),
    Case("quantize-5-odd-groups", grid(5, 7, False), "quantize"),
    Case("quantize-4-mse", grid(4, 32, True, "mse"), "quantize"),
    Case("quantize-3-mse-asymmetric", grid(3, 50, False, "mse"), "quantize"),
    Case("quantize-8-mse-channel", grid(8, 0, True, "mse", "bfloat16"), "quantize"),
    Case("quantize-2-mse", grid(2, 7, True, "mse", "float16"), "quantize"),
    Case("quantize-4-full", grid(4, 32, True, "full"), "quantize"),
    Case("quantize-5-full-asymmetric", grid(5, 0, False, "full"), "quantize"),
    Case("quantize-4-power_of_two", grid(4, 32, True, "power_of_two"), "quantize"),
    Case("quantize-4-scale", grid(4, 32, False, "scale"), "quantize"),
    Case("quantize-4-given", grid(4, 32, False, "given"), "quantize"),
    Case("quantize-4-scale-symmetric", grid(4, 32, True, "scale"), "quantize"),
    Case("quantize-8-given-channel", grid(8, 0, True, "given"), "quantize"),
    *(  # steps beyond any int32, of both signs
        Case(f"quantize-{bits}-far-{rule}", grid(bits, 32, symmetric, rule, of=largest), "quantize")
        for bits, rule, symmetric in ((4, "scale", False), (8, "given", True), (3, "given", False))
    ),
    *(
        Case(f"quantize-{b}-largest-{rule}", grid(b, 32, symmetric, rule, of=largest), "quantize")
        for b, symmetric, rule in (
            (4, True, "absmax"), (3, False, "absmax"), (5, True, "power_of_two"), (6, True, "mse"), (7, False, "mse"),
        )
    ),
    *(
        Case(f"fit_tensor-{rule}-{symmetric}", whole(rule, symmetric), "fit_tensor")
        for rule in ("absmax", "mse", "power_of_two")
        for symmetric in (True, False)
    ),
    Case("quantize-4-float16-scale", grid(4, 32, True, scale_dtype="float16"), "quantize"),
    Case("quantize-4-bfloat16-scale", grid(4, 32, False, scale_dtype="bfloat16"), "quantize"),
    *(
        Case(f"quantize-4-{rounding}", grid(4, 32, True, rounding=rounding), "quantize")
        for rounding in ("away", "floor", "stochastic")
    ),
    *(Case(f"dequantize-{b}", decode(b, 32, b % 2 == 0), "dequantize") for b in range(2, 9)),
    Case("dequantize-4-odd-groups", decode(4, 7, False), "dequantize"),
    Case("dequantize-8-channel", decode(8, 0, True), "dequantize"),
    *(
        Case(
            f"round_to_int-{rounding}",
            lambda g, r, c, d, m=rounding: (
                weights(g, r, c, d).reshape(-1),
                3.7,
                0,
                8,
                True,
                m,
                3,
                Out((r * c,), np.int8),
            ),
            "round_to_int",
        )
        for rounding in ("even", "away", "floor", "stochastic")
    ),
    Case(
        "round_to_int-offset",
        lambda g, r, c, d: (weights(g, r, c, d).reshape(-1), 2.0, -1, 3, False, "even", 0, Out((r * c,), np.uint8)),
        "round_to_int",
    ),
    Case("errors", pair),
    Case("distill", lesson(1, False, 4.0, 1.0)),
    Case("distill-labels", lesson(1, True, 2.5, 0.3), "distill"),
    Case("distill-labels-not-softened", lesson(1, True, 1.0, 0.5), "distill"),
    Case("distill-three-teachers", lesson(3, True, 3.0, 0.9), "distill"),
    Case("distill-masked", lesson(1, True, 3.0, 0.9, masked=True), "distill"),
    Case("distill-masked-three-teachers", lesson(3, True, 1.0, 0.4, masked=True), "distill"),
    Case("shrink", plain(0.5, 1.25)),
    Case("shrink-nothing", plain(0.0, 1.0), "shrink"),
    *(
        Case(f"block_sums-{r or 'all'}x{c or 'all'}-{power}", blocks(r, c, power), "block_sums", multiple=max(c, 1))
        for power, sizes in enumerate(
            [((1, 0), (0, 1), (17, 3), (0, 0), (2, 600)), ((4, 4), (1, 16)), ((2, 2), (3, 40))]
        )
        for r, c in sizes
    ),
    Case("multiply-rows", factors(True), "multiply"),
    Case("multiply-columns", factors(False), "multiply"),
    Case("square_product", squares(1.0, True)),
    Case("square_product-signed", squares(0.5, False), "square_product"),
    Case("histogram", bins),
    Case("predictive", softmax_layer(37, 10), typed=False),
    Case("predictive-two", softmax_layer(17, 2), "predictive", typed=False),
    Case("predictive-many", softmax_layer(3, 33), "predictive", typed=False),
    Case("count_keys", counted(False, None)),
    Case("count_keys-absolute", counted(True, None), "count_keys"),
    Case("count_keys-lower", counted(False, 0x3F00), "count_keys"),
    Case("mask_below", below(False, False, 5)),
    Case("mask_below-absolute", below(False, True, 0), "mask_below"),
    Case("prune_below", below(True, True, 3)),
    Case("prune_below-scores", below(True, False, 2), "prune_below"),
    Case("quantize_codebook-nf4", book(NF4_EDGES, 64, "absmax", 4), "quantize_codebook"),
    Case("quantize_codebook-nf4-float16", book(NF4_EDGES, 64, "absmax", 4, scale_dtype="float16"), "quantize_codebook"),
    Case("quantize_codebook-odd-groups", book(NF4_EDGES, 7, "absmax", 4, scale_dtype="bfloat16"), "quantize_codebook"),
    Case("quantize_codebook-mxfp4", book(E2M1_EDGES, 32, "power_of_two", 4, E2M1_ORDER, peak=4.0), "quantize_codebook"),
    Case("quantize_codebook-fit", book(1, 32, "power_of_two", 8, fit=True), "quantize_codebook"),
    Case("quantize_codebook-binary", book(np.array([-1e-45], np.float32), 64, "none", 1), "quantize_codebook"),
    Case("quantize_codebook-given", book(5, 0, "scale", 3), "quantize_codebook"),
    *(
        Case(f"quantize_codebook-{k}", book(k - 1, 48, "absmax", b, peak=2.5), "quantize_codebook")
        for b, k in ((2, 3), (5, 17), (6, 64), (8, 256))
    ),
    Case("quantize_codebook-apart", book(15, 50, "none", 4, apart=True), "quantize_codebook"),
    Case("quantize_codebook-apart-2", book(2, 16, "none", 2, E2M1_ORDER % 4, apart=True), "quantize_codebook"),
    *(
        Case(f"dequantize_codebook-{b}", book_values(b, k, 64), "dequantize_codebook")
        for b, k in ((1, 2), (2, 3), (4, 16), (5, 20), (8, 256))
    ),
    Case("dequantize_codebook-apart", book_values(4, 13, 7, apart=True), "dequantize_codebook"),
    Case("dequantize_codebook-apart-8", book_values(8, 200, 0, apart=True), "dequantize_codebook"),
    Case("magnitude_sums", lambda g, r, c, d: (weights(g, r, c, d), 50, Out((r, -(-c // 50)), np.float64))),
    Case("fit_ternary", ternary(64)),
    Case("fit_ternary-channel", ternary(0), "fit_ternary"),
    Case("fit_clusters", clusters(16, 0, 13)),
    *(Case(f"fit_clusters-{k}", clusters(k, 48, 99), "fit_clusters") for k in (2, 3)),
    Case("fit_grids", on_grids(0)),
    Case("fit_grids-groups", on_grids(40), "fit_grids"),
    Case(
        "stored_per_row",
        lambda g, r, c, d: (sparse_weights(g, r, c, d, "bitmask"), Out((r,), np.int64)),
    ),
    *(Case(f"sparse_encode-{p}", sparse_encode(p), "sparse_encode", multiple=m) for p, m in PLACES.items()),
    *(Case(f"sparse_decode-{p}", sparse_decode(p), "sparse_decode", multiple=m) for p, m in PLACES.items()),
    *(
        Case(f"sparse_{name}-{p}-codes", make(p, True), f"sparse_{name}", typed=False, multiple=PLACES[p])
        for name, make in (("encode", sparse_encode), ("decode", sparse_decode))
        for p in ("bitmask", "csr", "2:4")
    ),
    *(
        Case(f"sparse_check-{p}-{spoiled}", sparse_check(p, spoiled), "sparse_check", typed=False, multiple=m)
        for p, m in PLACES.items()
        for spoiled in (False, True)
    ),
    *(
        Case(f"sparse_product-{p}-{batch}", sparse_product(p, batch), "sparse_product", multiple=PLACES[p])
        for p in ("bitmask", "csr", "csr-wide", "2:4", "3:7")
        for batch in (1, 2, 19)
    ),
    *(
        Case(
            f"sparse_product-{p}-{batch}-{bits}-{group}-{kind}",
            sparse_product(p, batch, bits, group, kind == "symmetric"),
            "sparse_product",
            typed=False,
            multiple=PLACES[p],
        )
        for p in ("bitmask", "csr", "2:4")
        for batch, bits, group, kind in (
            (1, 4, 32, "symmetric"),
            (1, 8, 0, "symmetric"),
            (1, 3, 7, "asymmetric"),
            (17, 4, 32, "asymmetric"),
            (4, 5, 50, "asymmetric"),
        )
    ),
]
