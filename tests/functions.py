"""One row per public function and array that it takes: tests of layouts, outputs and threads walk it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

import quantrim as qt

Array = np.ndarray[Any, Any]
FLOATS: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Function:
    """call(a) or, where `out` says what shape and dtype that has for a, call(a, out=...)."""

    name: str
    call: Callable[..., Any]
    kind: str = "floats"  # "floats", "uint8" or "bool": what a holds
    out: Callable[[Array], tuple[tuple[int, ...], Any]] | None = None
    in_place: bool = False  # whether out may be a float32 a itself
    multiple: int = 1  # of the last axis

    @property
    def function(self) -> str:
        return self.name.split("-")[0]

    @property
    def dtypes(self) -> list[Any]:
        return list(FLOATS.values()) if self.kind == "floats" else [np.dtype(self.kind)]

    def values(self, seed: int, shape: tuple[int, ...], dtype: Any) -> Array:
        """Values that this function accepts."""
        rng = np.random.default_rng([seed, *shape])
        if self.kind == "bool":
            return rng.random(shape) < 0.5
        if self.kind == "uint8":
            return rng.integers(0, 2**BITS, shape).astype(np.uint8)
        return rng.standard_normal(shape).astype(np.float32).astype(dtype)


BITS = 5


def other(a: Array) -> Array:
    """Another array of a's shape: the same for every layout of a."""
    return wave(a.shape)


@functools.cache
def wave(shape: tuple[int, ...]) -> Array:
    return np.cos(np.arange(np.prod(shape, dtype=int), dtype=np.float64)).astype(np.float32).reshape(shape)


def columns(a: Array) -> int:
    return a.shape[-1] if a.ndim else 1


def norms(a: Array) -> Array:
    return np.arange(columns(a), dtype=np.float32) + 1


def scores(a: Array) -> tuple[tuple[int, ...], Any]:
    return a.shape, np.float32


def weights(a: Array) -> tuple[tuple[int, ...], Any]:
    return a.shape, a.dtype.newbyteorder("=")


def sparse_product(a: Array, **options: Any) -> Array:
    """Vectors a times a matrix of their length; more axes than two become rows."""
    vectors = np.asarray(a).reshape(int(np.prod(a.shape[:-1])), columns(a)) if np.ndim(a) > 2 else a
    return qt.sparse.product(vectors, qt.sparse.encode(wave((6, columns(a)))), **options)


FUNCTIONS = [
    Function("importance.magnitude", qt.importance.magnitude, out=scores, in_place=True),
    Function("importance.taylor", lambda a, **k: qt.importance.taylor(a, other(a), **k), out=scores, in_place=True),
    Function(
        "importance.taylor-grad",
        lambda a, **k: qt.importance.taylor(other(a), a, **k),
        out=scores,
        in_place=True,
    ),
    Function("importance.wanda", lambda a, **k: qt.importance.wanda(a, norms(a), **k), out=scores, in_place=True),
    Function("importance.l1", qt.importance.l1),
    Function(
        "importance.l1-rows",
        lambda a, **k: qt.importance.l1(a, -1, **k),
        out=lambda a: (a.shape[:-1], np.float32),
    ),
    Function(
        "importance.l2-columns",
        lambda a, **k: qt.importance.l2(a, 0, **k),
        out=lambda a: (a.shape[1:], np.float32),
    ),
    Function("importance.share", qt.importance.share),
    *(
        Function(
            f"threshold-{m}",
            lambda a, m=m, **k: qt.threshold(a, 0.5, mode=m, **k),
            out=weights,
            in_place=True,
        )
        for m in ("magnitude", "signed", "soft")
    ),
    Function("prune_mask", lambda a: qt.prune_mask(a, 0.5)),
    Function("prune_mask-axis", lambda a: qt.prune_mask(a, 0.3, axis=0)),
    Function("prune_mask-2:4", lambda a: qt.prune_mask(a, pattern="2:4"), multiple=4),
    Function("prune", lambda a, **k: qt.prune(a, 0.5, **k), out=weights, in_place=True),
    Function("prune-axis", lambda a, **k: qt.prune(a, 0.5, axis=0, **k), out=weights, in_place=True),
    Function("prune-scores", lambda a, **k: qt.prune(other(a), 0.5, scores=a, **k), out=scores, in_place=True),
    Function("prune-2:4", lambda a, **k: qt.prune(a, pattern="2:4", **k), out=weights, in_place=True, multiple=4),
    Function("apply_mask", lambda a, **k: qt.apply_mask(a, other(a) > 0, **k), out=weights, in_place=True),
    Function("apply_mask-mask", lambda a, **k: qt.apply_mask(other(a), a, **k), kind="bool", out=scores),
    Function("sparsity", qt.sparsity),
    Function("quantize", lambda a: qt.quantize(a, 4, group_size=3)),
    Function("quantize-tensor", lambda a: qt.quantize(a, 3, group_size="tensor", symmetric=False, scale="mse")),
    Function("quantize-saturate", lambda a: qt.quantize(a, 8, nonfinite="saturate", rounding="stochastic", seed=5)),
    Function("round_to_int", lambda a, **k: qt.round_to_int(a, 16, **k), out=lambda a: (a.shape, np.int8)),
    Function("sparse.encode", qt.sparse.encode),
    Function("sparse.encode-csr", lambda a: qt.sparse.encode(a, "csr")),
    Function("sparse.encode-3:4", lambda a: qt.sparse.encode(qt.prune(a, pattern="3:4"), "3:4"), multiple=4),
    Function("sparse.product", sparse_product),
    Function(
        "pack",
        lambda a, **k: qt.pack(a, BITS, **k),
        "uint8",
        lambda a: ((*a.shape[:-1], -(-columns(a) * BITS // 8)), np.uint8),
    ),
    Function(
        "unpack",
        lambda a, **k: qt.unpack(a, BITS, columns(a) * 8 // BITS, **k),
        "uint8",
        lambda a: ((*a.shape[:-1], columns(a) * 8 // BITS), np.uint8),
    ),
]


def bits_of(result: Any) -> list[tuple[Any, ...]]:
    """Everything that two equal results share, down to the bit."""
    parts = result.parts() if isinstance(result, (qt.QuantizedTensor, qt.SparseTensor)) else [np.asarray(result)]
    return [(p.dtype, p.shape, p.tobytes()) for p in parts]
