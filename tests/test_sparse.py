"""Weights stored sparse: what comes back, what products are, and what hostile tensors are refused for."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from children import child
from functions import FLOATS, Array, bits_of

import quantrim as qt
from quantrim import SparseTensor, _core, backend

DTYPES = pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
PATTERNS = ["1:2", "1:4", "2:4", "3:4", "3:7", "4:8", "1:16", "5:17", "31:32", "1:32"]
SHAPES = [(0, 64), (3, 0), (1, 1), (1, 37), (7,), (5, 65), (2, 3, 129), (4, 1056), (0,), (2, 0, 5)]


def pruned(shape: tuple[int, ...], sparsity: float, dtype: Any = np.float32, seed: int = 0) -> Array:
    w = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32).astype(dtype)
    return np.asarray(qt.prune(w, sparsity))


def same(a: Any, b: Any) -> bool:
    return bits_of(a) == bits_of(b)


# Round trips


@pytest.mark.promise("A19", "A22")
@pytest.mark.parametrize("layout", ["bitmask", "csr"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@DTYPES
def test_round_trip(layout: str, shape: tuple[int, ...], dtype: Any) -> None:
    for sparsity in (0, 0.3, 0.7, 0.98, 1):
        w = pruned(shape, sparsity, dtype)
        s = qt.sparse.from_dense(w, layout)
        assert same(s.to_dense(), w)
        assert s.values.size == s.nnz == np.count_nonzero(w)
        assert s.sparsity == (1 - np.count_nonzero(w) / w.size if w.size else 0)


@pytest.mark.parametrize("pattern", PATTERNS)
@DTYPES
def test_round_trip_of_n_of_m(pattern: str, dtype: Any) -> None:
    n, m = map(int, pattern.split(":"))
    for shape in ((0, m), (3, 0), (1, m), (5, 3 * m), (2, 3, 7 * m), (3, 40 * m)):
        w = np.random.default_rng(1).standard_normal(shape).astype(dtype)
        few = np.asarray(qt.prune(qt.prune(w, pattern=pattern), 0.9))  # most groups have fewer than n
        for a in (np.asarray(qt.prune(w, pattern=pattern)), few, np.zeros_like(w)):
            s = qt.sparse.from_dense(a, pattern)
            assert same(s.to_dense(), a)
            assert s.values.size == s.nnz == a.size // m * n
            packed = -(-shape[-1] // m * n * (m - 1).bit_length() // 8)
            assert s.places.shape == (int(np.prod(shape[:-1])), packed)


@pytest.mark.promise("A4")
@pytest.mark.parametrize("layout", ["bitmask", "csr", "2:4"])
@DTYPES
def test_negative_zero_is_a_value(layout: str, dtype: Any) -> None:
    w = np.array([[0.0, -0.0, 0.0, 1.0]], np.float32).astype(dtype)
    s = qt.sparse.from_dense(w, layout)
    assert s.nnz == 2
    assert same(s.to_dense(), w)


@pytest.mark.parametrize("layout", ["bitmask", "csr"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [1, 7, 32, "channel", "tensor"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_round_trip_of_codes(bits: int, group_size: int | str, symmetric: bool, layout: str) -> None:
    for shape in ((0, 8), (3, 0), (1, 1), (5, 129), (2, 3, 50), (7,)):
        w = pruned(shape, 0.7)
        q = qt.quantize(w, bits, group_size=group_size, symmetric=symmetric)
        s = qt.sparse.from_dense(q, layout)
        back = s.to_dense()
        assert isinstance(back, qt.QuantizedTensor)
        assert same(back, q) and (back.bits, back.group_size, back.shape) == (q.bits, q.group_size, q.shape)
        assert s.nnz == np.count_nonzero(q.dequantize())


def test_codes_of_n_of_m() -> None:
    w = np.asarray(qt.prune(pruned((6, 64), 0), pattern="2:4"))
    for bits, symmetric in itertools.product((3, 4, 8), (True, False)):
        q = qt.quantize(w, bits, group_size=32, symmetric=symmetric)
        assert same(qt.sparse.from_dense(q, "2:4").to_dense(), q)


def test_csr_columns_fit_uint16_up_to_65536() -> None:
    for cols, dtype in ((2**16, np.uint16), (2**16 + 1, np.int32)):
        w = np.zeros((2, cols), np.float32)
        w[:, -1] = w[0, 0] = 3
        s = qt.sparse.from_dense(w, "csr")
        assert s.places.dtype == dtype and s.places.tolist() == [0, cols - 1, cols - 1]
        assert same(s.to_dense(), w)
        assert (s @ np.ones(cols, np.float32)).tolist() == [6, 3]


def test_decode_into() -> None:
    w = pruned((5, 33), 0.6)
    s = qt.sparse.from_dense(w)
    out = np.full_like(w, 7)
    assert qt.sparse.to_dense(s, out=out) is out and same(out, w)
    q = qt.quantize(w, 4)
    t = qt.sparse.from_dense(q)
    data = np.empty_like(q.data)
    back = qt.sparse.to_dense(t, out=data)
    assert isinstance(back, qt.QuantizedTensor) and back.data is data and same(back, q)
    with pytest.raises(TypeError, match="out must be float32, not float64"):
        qt.sparse.to_dense(s, out=np.empty((5, 33)))
    ones = qt.sparse.from_dense(np.ones(8, np.float32))
    with pytest.raises(ValueError, match="out must be apart from every input"):
        qt.sparse.to_dense(ones, out=ones.values)


# Sizes


def test_sizes() -> None:
    w = pruned((64, 256), 0.75)
    count = 64 * 64
    mask, csr = qt.sparse.from_dense(w), qt.sparse.from_dense(w, "csr")
    assert mask.nbytes == 4 * count + 64 * 32 + 8 * 65
    assert csr.nbytes == 4 * count + 2 * count + 8 * 65
    assert mask.bits_per_weight == 8 * mask.nbytes / w.size
    q = qt.quantize(w, 4, group_size=32)
    coded = qt.sparse.from_dense(q)
    assert coded.nbytes == -(-coded.nnz * 4 // 8) + 64 * 32 + 8 * 65 + q.scales.nbytes
    two = qt.sparse.from_dense(qt.prune(w, pattern="2:4"), "2:4")
    assert two.nbytes == w.size // 2 * 4 + w.size // 2 * 2 // 8


@pytest.mark.parametrize("bits,dtype", [(32, np.float32), (16, np.float16)])
def test_smallest_layout_is_the_smallest(bits: int, dtype: Any) -> None:
    seen = set()
    for sparsity in (0, 0.01, 0.05, 0.5, 0.9, 0.93, 0.94, 0.99, 1):
        w = pruned((128, 1024), sparsity, dtype)
        sizes = {"dense": w.nbytes} | {layout: qt.sparse.from_dense(w, layout).nbytes for layout in ("bitmask", "csr")}
        best = qt.sparse.smallest_layout(w.shape, qt.sparsity(w), bits)
        assert sizes[best] == min(sizes.values())
        seen.add(best)
    assert seen == {"dense", "bitmask", "csr"}


@pytest.mark.promise("B42")
@pytest.mark.parametrize(
    "arguments,error,words",
    [
        ((4, 0.5, 8), TypeError, "shape must be a tuple"),
        (((), 0.5, 8), TypeError, "shape must be a tuple"),
        (((4, -1), 0.5, 8), ValueError, "shape must be an integer"),
        (((4, 4), np.nan, 8), ValueError, "sparsity must be a number of"),
        (((4, 4), 1.5, 8), ValueError, "sparsity must be a number of"),
        (((4, 4), 0.5, 0), ValueError, r"bits must be an integer of 1\.\.32, not 0"),
        (((4, 4), 0.5, True), TypeError, "bits must be an integer"),
    ],
)
def test_smallest_layout_refuses(arguments: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        qt.sparse.smallest_layout(*arguments)


# Products

EPSILON = 2.0**-24  # half a unit in the last place of float32 at 1
TINY = 2.0**-149  # what a product loses that is subnormal


def product(s: SparseTensor, x: Array) -> Array:
    """x @ w.T, a vector or a row for each."""
    return (s @ np.asarray(x).T).T


def bound(w: Array, x: Array) -> Array:
    """The error of sixteen lanes: each term is rounded once, and takes part in cols / 16 + 4 additions."""
    roundings = -(-w.shape[1] // 16) + 5
    size = np.abs(x) @ np.abs(w).T
    return size * (roundings * EPSILON / (1 - roundings * EPSILON)) + w.shape[1] * TINY


@pytest.mark.parametrize("batch", [None, 0, 1, 3, 4, 16, 17, 40])
@pytest.mark.parametrize("layout", ["bitmask", "csr", "2:4", "3:7"])
@DTYPES
def test_products_within_the_bound_of_their_sums(layout: str, batch: int | None, dtype: Any) -> None:
    for rows, cols in ((1, 28), (7, 1036), (33, 84)):
        w = pruned((rows, cols), 0.7, dtype)
        w = np.asarray(qt.prune(w, pattern=layout)) if ":" in layout else w
        x = np.random.default_rng(2).standard_normal((*(() if batch is None else (batch,)), cols)).astype(np.float32)
        y = product(qt.sparse.from_dense(w, layout), x)
        exact = x.astype(np.float64) @ w.astype(np.float64).T
        assert y.dtype == np.float32 and y.shape == exact.shape
        assert (np.abs(y - exact) <= bound(w.astype(np.float64), x.astype(np.float64))).all()


@pytest.mark.parametrize("layout", ["bitmask", "csr", "2:4"])
@pytest.mark.parametrize(
    "bits,group_size,symmetric", [(4, 32, True), (8, "channel", True), (3, 7, False), (4, "tensor", False)]
)
def test_products_of_codes_are_those_of_their_weights(
    layout: str, bits: int, group_size: int | str, symmetric: bool
) -> None:
    w = np.asarray(qt.prune(pruned((19, 132), 0.2), pattern="2:4"))
    q = qt.quantize(w, bits, group_size=group_size, symmetric=symmetric)
    x = np.random.default_rng(3).standard_normal((6, 132)).astype(np.float32)
    dense = qt.sparse.from_dense(q.dequantize())
    for vectors in (x[0], x[:2], x):
        assert same(product(qt.sparse.from_dense(q, layout), vectors), product(dense, vectors))


@pytest.mark.promise("G7")
def test_products_have_the_bits_of_every_layout_and_batch() -> None:
    w = np.asarray(qt.prune(pruned((29, 332), 0.3), pattern="2:4"))
    x = np.random.default_rng(4).standard_normal((21, 332)).astype(np.float32)
    tensors = [qt.sparse.from_dense(w, layout) for layout in ("bitmask", "csr", "2:4")]
    want = product(tensors[0], x)
    lanes = np.zeros((21, 29, 16), np.float32)
    for i in range(332):
        lanes[..., i % 16] += x[:, None, i] * w[None, :, i]
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half:]
    assert same(want, lanes[..., 0])
    for s in tensors:
        assert same(product(s, x), want)
        assert all(same(product(s, x[b]), want[b]) for b in range(21))
        assert same(s @ x.T, want.T) and same(s @ x[0], want[0])


def test_products_overflow_as_the_dense_ones() -> None:
    w = np.array([[3e38, 0, 0, 3e38], [3e38, 0, 0, -3e38]], np.float32)
    for layout in ("bitmask", "csr", "2:4"):
        y = qt.sparse.from_dense(w, layout) @ np.array([4, 1, 1, 4], np.float32)
        assert np.isposinf(y[0]) and np.isnan(y[1])


@pytest.mark.promise("E111")
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_do_not_change_bits(threads: int) -> None:
    w = pruned((517, 1009), 0.8)
    x = np.random.default_rng(5).standard_normal((18, 1009)).astype(np.float32)
    with qt.use_threads(1):
        one = [
            (bits_of(s), bits_of(product(s, x)), bits_of(product(s, x[:1])))
            for s in map(qt.sparse.from_dense, [w, qt.quantize(w)])
        ]
    with qt.use_threads(threads):
        many = [
            (bits_of(s), bits_of(product(s, x)), bits_of(product(s, x[:1])))
            for s in map(qt.sparse.from_dense, [w, qt.quantize(w)])
        ]
    assert one == many


def test_product_into() -> None:
    s = qt.sparse.from_dense(pruned((5, 8), 0.5))
    for shape in ((8,), (8, 2)):
        x, out = np.ones(shape, np.float32), np.empty((5, *shape[1:]), np.float32)
        assert s.matmul(x, out=out) is out and same(out, s @ x)
        assert qt.sparse.matmul(s, x, out=out) is out and same(out, s @ x)
    with pytest.raises(ValueError, match=r"out must have shape \(5, 2\), not \(2, 5\)"):
        s.matmul(x, out=np.empty((2, 5), np.float32))
    square = qt.sparse.from_dense(np.eye(8, dtype=np.float32))
    for x in (np.ones(8, np.float32), np.ones((8, 8), np.float32)):
        with pytest.raises(ValueError, match="out must be apart from every input"):
            square.matmul(x, out=x)


@pytest.mark.promise("B49")
@pytest.mark.parametrize(
    "x,error,words",
    [
        (np.ones(7, np.float32), ValueError, r"x must have shape \(8,\) or \(8, batch\), not \(7,\)"),
        (np.ones((1, 2, 8), np.float32), ValueError, r"x must have shape \(8,\) or \(8, batch\), not \(8, 2, 1\)"),
        (np.float32(1), ValueError, "x must have at least one axis"),
        (np.ones(8, np.complex64), TypeError, "x must be float32"),
        ([1, 2, np.nan, 4, 5, 6, 7, 8], ValueError, "x must be finite, but has 1 NaN .* at flat index 2"),
        ([1e39] * 8, ValueError, "x must fit float32"),
    ],
)
def test_vectors_that_do_not_fit(x: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        product(qt.sparse.from_dense(np.ones((3, 8), np.float32)), x)


def test_products_need_a_matrix() -> None:
    with pytest.raises(ValueError, match=r"s must be of a matrix \(out, in\), not of shape \(8,\)"):
        product(qt.sparse.from_dense(np.ones(8, np.float32)), np.ones(8))
    with pytest.raises(TypeError, match="s must be a SparseTensor, not ndarray"):
        qt.sparse.matmul(np.ones((8, 8)), np.ones(8))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="s must be a SparseTensor, not list"):
        qt.sparse.to_dense([])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        np.ones(3, np.float32) @ qt.sparse.from_dense(np.ones((3, 3), np.float32))  # type: ignore[operator]


# What is refused


@pytest.mark.promise("A1", "A2")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", ["bitmask", "csr", "2:4"])
@DTYPES
def test_nonfinite(layout: str, bad: float, dtype: Any) -> None:
    w = np.zeros((2, 36), dtype)
    w[1, 5] = bad
    with pytest.raises(
        ValueError, match=r"w must be finite, but has 1 NaN or infinite of 72 values.* at flat index 41"
    ):
        qt.sparse.from_dense(w, layout)


@pytest.mark.promise("B42")
@pytest.mark.parametrize(
    "layout", ["dense", "0:4", "4:4", "5:4", "1:33", "2:4:8", "-1:4", " 2:4", "", None, 4, ("csr",)]
)
def test_unknown_layouts(layout: Any) -> None:
    with pytest.raises(ValueError, match='layout must be "bitmask", "csr" or "n:m" with 1 <= n < m <= 32, not'):
        qt.sparse.from_dense(np.zeros(32, np.float32), layout)


@pytest.mark.promise("B42")
def test_columns_and_groups_of_n_of_m() -> None:
    with pytest.raises(ValueError, match="the last axis must be a multiple of 4 for layout '2:4', not 6"):
        qt.sparse.from_dense(np.zeros((3, 6), np.float32), "2:4")
    w = np.zeros((3, 8), np.float32)
    w[2, 4:7] = 1
    words = "w must have at most 2 of every 4 that are not zero, not 3 in the 4 from flat index 20 on"
    with pytest.raises(ValueError, match=words):
        qt.sparse.from_dense(w, "2:4")
    with pytest.raises(ValueError, match=words):
        qt.sparse.from_dense(qt.quantize(w, 4), "2:4")


def test_codebooks_are_refused() -> None:
    q = dataclasses.replace(qt.quantize(np.ones((2, 4), np.float32), 4), codebook=np.zeros(16, np.float32))
    with pytest.raises(ValueError, match="w must be on a uniform grid, not on a codebook"):
        qt.sparse.from_dense(q)


def parts(s: SparseTensor, **changes: Any) -> dict[str, Any]:
    return {f.name: getattr(s, f.name) for f in dataclasses.fields(s)} | changes


W = np.array([[0, 2, 0, 0, 0, 7, 0, 0, 0], [3, 0, 0, 4, 0, 0, 0, 0, 1]], np.float32)
BITS, CSR = qt.sparse.from_dense(W), qt.sparse.from_dense(W, "csr")
PAIRS = qt.sparse.from_dense(W[:, :8], "2:4")
CODES = qt.sparse.from_dense(qt.quantize(W, 4, group_size=4, symmetric=False))


def offsets(*values: int) -> Array:
    return np.array(values, np.int64)


@pytest.mark.promise("A38", "A39", "B44")
@pytest.mark.parametrize(
    "s,changes,words",
    [
        (BITS, {"values": BITS.values[:-1]}, r"values must have shape \(5,\) \(20 bytes\), not \(4,\)"),
        (BITS, {"values": np.array([1, 2, np.nan, 4, 5], np.float32)}, "values must be finite.* flat index 2"),
        (BITS, {"places": BITS.places[:, :1]}, "places must have shape"),
        (BITS, {"places": BITS.places[:1]}, "places must have shape"),
        (BITS, {"places": np.asfortranarray(BITS.places)}, "places must be C-contiguous"),
        (
            BITS,
            {"places": np.array([[34, 2], [9, 1]], np.uint8)},
            "row 0 must have 2 bits set, all below 9, and have 3",
        ),
        (
            BITS,
            {"places": np.array([[34, 0], [9, 2]], np.uint8)},
            "row 1 must have 3 bits set, all below 9, and have 3",
        ),
        (BITS, {"offsets": offsets(1, 2, 5)}, "offsets must begin with 0, not 1"),
        (BITS, {"offsets": offsets(0, 6, 5)}, "offsets must be non-decreasing, not 5 at index 2"),
        (BITS, {"offsets": offsets(0, 3, 5)}, "places of row 0 must have 3 bits set"),
        (BITS, {"offsets": offsets(0, 5)}, "offsets must have shape"),
        (BITS, {"offsets": offsets(0, 2, 2**62)}, "offsets must end with at most 18 values"),
        (BITS, {"offsets": offsets(0, 2, -(2**63))}, "offsets must be non-decreasing"),
        (BITS, {"shape": (2, 17)}, "places must have shape"),
        (BITS, {"shape": (2**40, 2**40)}, "offsets must have shape"),
        (BITS, {"shape": (2, -9)}, "shape must be an integer of 0"),
        (BITS, {"shape": ()}, "shape must have at least one axis"),
        (BITS, {"layout": "mask"}, "layout must be"),
        (BITS, {"scales": np.ones((2, 1), np.float32)}, "scales must be None where bits is None"),
        (CSR, {"places": np.array([1, 5, 0, 3, 9], np.uint16)}, "places of row 1 must be 3 ascending columns below 9"),
        (CSR, {"places": np.array([5, 1, 0, 3, 8], np.uint16)}, "places of row 0 must be 2 ascending columns below 9"),
        (CSR, {"places": np.array([1, 1, 0, 3, 8], np.uint16)}, "places of row 0 must be 2 ascending columns below 9"),
        (CSR, {"places": np.array([1, 65535, 0, 3, 8], np.uint16)}, "places of row 0"),
        (CSR, {"places": CSR.places[:4]}, r"places must have shape \(5,\) \(10 bytes\), not \(4,\)"),
        (PAIRS, {"values": PAIRS.values[:-1]}, r"values must have shape \(8,\) \(32 bytes\), not \(7,\)"),
        (PAIRS, {"places": PAIRS.places ^ np.uint8(4)}, "places of row 0 must be ascending within each 2:4 group"),
        (PAIRS, {"layout": "1:4"}, "values must have shape"),
        (PAIRS, {"layout": "3:5"}, "the last axis must be a multiple of 5"),
        (CODES, {"values": CODES.values[:-1]}, "values must have shape"),
        (CODES, {"scales": None}, "scales and group_size must be given where bits is"),
        (CODES, {"scales": CODES.scales[:, :1]}, "scales must have shape"),
        (CODES, {"scales": CODES.scales * np.float32(np.nan)}, "scales must be finite"),
        (CODES, {"zero_points": np.full((2, 3), 16, np.uint8)}, "zero_points must be codes of 4 bits"),
        (CODES, {"bits": 9}, r"bits must be an integer of 1\.\.8, not 9"),
        (CODES, {"group_size": 0}, "group_size must be"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_arrays_that_do_not_agree(s: SparseTensor, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SparseTensor(**parts(s, **changes))


@pytest.mark.promise("A33")
@pytest.mark.parametrize(
    "s,changes",
    [
        (BITS, {"values": BITS.values.astype(np.float64)}),
        (BITS, {"values": BITS.values.astype(">f4")}),
        (BITS, {"values": [1.0] * 5}),
        (BITS, {"places": BITS.places.astype(np.int8)}),
        (BITS, {"offsets": BITS.offsets.astype(np.int32)}),  # type: ignore[union-attr]
        (BITS, {"offsets": None}),
        (BITS, {"shape": (2.0, 9)}),
        (CSR, {"places": CSR.places.astype(np.int32)}),
        (CODES, {"values": CODES.values.astype(np.int8)}),
        (CODES, {"bits": True}),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_arrays_of_wrong_type(s: SparseTensor, changes: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(changes))} must be"):
        SparseTensor(**parts(s, **changes))


def test_positions_of_n_of_m_beyond_m() -> None:
    s = qt.sparse.from_dense(np.eye(2, 5, dtype=np.float32), "2:5")
    assert s.places.tolist() == [[8], [8]]  # positions 0 and 1, of three bits
    for row in (0b111_000, 0b001_001, 0b000_001, 0b1_001_000):
        with pytest.raises(ValueError, match="places of row 1 must be ascending within each 2:5 group"):
            SparseTensor(**parts(s, places=np.array([[8], [row]], np.uint8)))


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        BITS.layout = "csr"  # type: ignore[misc]


def spoiled(rng: np.random.Generator, a: Array) -> Array:
    """a with some bytes of it changed."""
    memory = bytearray(a.tobytes())
    for at in rng.integers(0, max(len(memory), 1), rng.integers(1, 4)) if memory else []:
        memory[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(0, 256))])
    return np.frombuffer(memory, a.dtype).reshape(a.shape)


@pytest.mark.promise("A38", "B49")
@pytest.mark.parametrize("isa", [i for i in qt.isas() if i != "reference"])
def test_fuzzed_tensors_are_refused_or_right(isa: str) -> None:
    """Either a ValueError, or a tensor that is encoded again to the same places."""
    rng = np.random.default_rng(6)
    w = pruned((9, 40), 0.6)
    held = [qt.sparse.from_dense(w, layout) for layout in ("bitmask", "csr")]
    held += [qt.sparse.from_dense(qt.prune(w, pattern=p), p) for p in ("2:4", "3:5", "2:8")]
    grids: list[tuple[int, Any]] = [(3, 7), (8, "channel")]
    held += [qt.sparse.from_dense(qt.quantize(w, b, group_size=g, symmetric=False)) for b, g in grids]
    refused = 0
    with qt.use_isa(isa):
        for s, _ in itertools.product(held, range(150)):
            name = rng.choice([n for n in ("values", "places", "offsets", "scales") if getattr(s, n) is not None])
            try:
                t = SparseTensor(**parts(s, **{name: spoiled(rng, getattr(s, name))}))
            except ValueError:
                refused += 1
                continue
            product(t, np.ones((5, 40), np.float32))
            mask = np.zeros(w.shape, np.bool_)
            form = ("n:m", *map(int, t.layout.split(":"))) if ":" in t.layout else (t.layout, 0, 0)
            full = np.ones(t.nnz, np.uint8)
            out = mask.view(np.uint8)
            backend.active.sparse_decode(*form, t.offsets, t.places, full, out)
            assert out.sum() == t.nnz
    assert refused > 200


HOSTILE = """
import numpy as np
import quantrim as qt
rng = np.random.default_rng(7)
x = np.ones((4, 40), np.float32)
w = np.asarray(qt.prune(rng.standard_normal((9, 40)).astype(np.float32), pattern="1:2"))
q = qt.quantize(w, 3, group_size=7)
for isa in qt.isas()[:-1]:
    qt.use_isa(isa)
    for layout in ("bitmask", "csr", "1:2", "3:5"):
        for a in (w, q) if layout != "3:5" else (np.asarray(qt.prune(w, pattern=layout)),):
            s = qt.sparse.from_dense(a, layout)
            for _ in range(100):  # the arrays change after they were looked at
                for part in (s.places, s.offsets):
                    if part is not None:
                        last = part[-1:].copy()
                        part[...] = rng.integers(-2**63, 2**63 - 1, part.shape).astype(part.dtype)
                        if part is s.offsets:
                            part[-1:] = last
                s @ x.T, s @ x[0]
                s.to_dense()
print("alive")
"""


@pytest.mark.promise("A36", "A37")
def test_arrays_that_change_afterwards_are_not_followed_out_of_memory() -> None:
    """Whatever stands in places and offsets, kernels stay within their arrays."""
    result = child(HOSTILE)
    assert result.returncode == 0 and "alive" in result.stdout, result.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"places": np.zeros((2, 1), np.uint8)},
        {"offsets": np.zeros(2, np.int64)},
        {"offsets": None},
        {"layout": "n:m"},
        {"layout": "other"},
        {"values": np.zeros(4, np.float32)},
    ],
    ids=str,
)
def test_bindings_refuse_what_would_read_outside_memory(change: dict[str, Any]) -> None:
    held: dict[str, Any] = {"offsets": BITS.offsets, "places": BITS.places, "values": BITS.values, "layout": "bitmask"}
    held |= change
    out = np.zeros((1, 2), np.float32)
    rest = (held["values"], 0, 1, None, None, np.zeros((1, 9), np.float32), out)
    with pytest.raises((ValueError, TypeError)):
        _core.sparse_product(held["layout"], 0, 0, held["offsets"], held["places"], 5, *rest)
