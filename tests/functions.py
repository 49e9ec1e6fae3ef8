"""One row per public function and array that it takes: tests of layouts, outputs and threads walk it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

import quantrim as qt
from quantrim import pruning
from quantrim.distillation import distillation_loss
from quantrim.pruning import shrink

Array = np.ndarray[Any, Any]
FLOATS: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Function:
    """call(a) or, where `out` says what shape and dtype that has for a, call(a, out=...)."""

    name: str
    call: Callable[..., Any]
    kind: str = "floats"  # "floats", "uint8", "bool" or "labels": what a holds
    out: Callable[[Array], tuple[tuple[int, ...], Any]] | None = None
    in_place: bool = False  # whether out may be a float32 a itself
    multiple: int = 1  # of the last axis

    @property
    def function(self) -> str:
        return self.name.split("-")[0]

    @property
    def dtypes(self) -> list[Any]:
        if self.kind == "labels":
            return [np.int64, np.uint8]
        return list(FLOATS.values()) if self.kind == "floats" else [np.dtype(self.kind)]

    def values(self, seed: int, shape: tuple[int, ...], dtype: Any) -> Array:
        """Values that this function accepts."""
        rng = np.random.default_rng([seed, *shape])
        if self.kind == "bool":
            return rng.random(shape) < 0.5
        if self.kind == "uint8":
            return rng.integers(0, 2**BITS, shape).astype(np.uint8)
        if self.kind == "labels":
            return rng.integers(0, CLASSES, shape).astype(dtype)
        return rng.standard_normal(shape).astype(np.float32).astype(dtype)


BITS = 5
CLASSES = 6


def other(a: Array) -> Array:
    """Another array of a's shape: the same for every layout of a."""
    return wave(a.shape)


@functools.cache
def wave(shape: tuple[int, ...]) -> Array:
    return np.cos(np.arange(np.prod(shape, dtype=int), dtype=np.float64)).astype(np.float32).reshape(shape)


def logits(labels: Array) -> Array:
    """A row for each label."""
    return wave((*(labels.shape or (1,)), CLASSES))


def columns(a: Array) -> int:
    return a.shape[-1] if a.ndim else 1


def norms(a: Array) -> Array:
    return np.arange(columns(a), dtype=np.float32) + 1


def scores(a: Array) -> tuple[tuple[int, ...], Any]:
    return a.shape, np.float32


def weights(a: Array) -> tuple[tuple[int, ...], Any]:
    return a.shape, a.dtype.newbyteorder("=")


def two(a: Array) -> Array:
    """a as a matrix, of its own memory where it is one."""
    return a if a.ndim in (0, 2) else a.reshape(int(np.prod(a.shape[:-1])), a.shape[-1])


def samples(a: Array) -> tuple[Array, Array]:
    """Inputs and labels for a softmax layer whose weights are a."""
    classes = len(a) if a.ndim else 1
    n = 5 if classes else 0
    return wave((n, columns(a))), np.arange(n) % max(classes, 1)


def labels(a: Array) -> Array:
    return np.arange(len(a) if a.ndim else 0) % 3


def sparse_product(a: Array) -> Array:
    """A sparse matrix times a; more axes than two become rows."""
    x = two(a) if np.ndim(a) > 2 else a
    return qt.sparse.matmul(qt.sparse.from_dense(wave((6, len(x) if np.ndim(x) else 1))), x)


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
    Function("importance.magnitude-rows", lambda a: qt.importance.magnitude(a, axis=-1)),
    Function("importance.taylor-all", lambda a: qt.importance.taylor(a, other(a), axis=None)),
    Function(
        "importance.fisher", lambda a, **k: qt.importance.fisher(a, np.abs(other(a)), **k), out=scores, in_place=True
    ),
    Function("importance.obd", lambda a, **k: qt.importance.obd(a, other(a), **k), out=scores, in_place=True),
    Function(
        "importance.obd-hessian_diag",
        lambda a, **k: qt.importance.obd(other(a), a, **k),
        out=scores,
        in_place=True,
    ),
    Function("importance.reduce", qt.importance.reduce),
    Function(
        "importance.reduce-rows",
        lambda a, **k: qt.importance.reduce(a, -1, **k),
        out=lambda a: (a.shape[:-1], np.float32),
    ),
    Function("importance.reduce-block", lambda a: qt.importance.reduce(two(a), block=(1, 2)), multiple=2),
    Function("importance.entropy", lambda a: qt.importance.entropy(two(a), bins=7)),
    Function("importance.entropy-range", lambda a: qt.importance.entropy(two(a), bins=7, range=(-1, 1))),
    Function(
        "importance.predictive",
        lambda a, **k: qt.importance.predictive(two(a), *samples(two(a)), **k),
        out=scores,
        in_place=True,
    ),
    Function(
        "importance.predictive-x",
        lambda a: qt.importance.predictive(wave((3, columns(a))), two(a), labels(two(a))),
    ),
    Function("importance.rank", lambda a: qt.importance.rank([a, other(a)])),
    Function("global_masks", lambda a: pruning.global_masks([other(a), a], 0.4)),
    Function("prune_model", lambda a: [w for _, w in pruning.prune_model({"a": a}, 0.6)]),
    Function("prune_model-scores", lambda a: [w for _, w in pruning.prune_model({0: other(a)}, 0.6, scores={0: a})]),
    Function("prune-row", lambda a, **k: qt.prune(a, 0.5, pattern="row", **k), out=weights, in_place=True),
    Function("prune_mask-column", lambda a: qt.prune_mask(a, 0.5, pattern="column")),
    Function("shrink", lambda a, **k: shrink(a, l1=0.3, l2=0.1, **k), out=weights, in_place=True),
    Function("shrink-rows", lambda a, **k: shrink(a, l1=1, axis=-1, **k), out=weights, in_place=True),
    Function("shrink-columns", lambda a, **k: shrink(a, l1=1, l2=2, axis=0, **k), out=weights, in_place=True),
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
    Function("quantize_codebook", lambda a: qt.quantize_codebook(a, "nf4", group_size=5)),
    *(
        Function(f"quantize_codebook-{name}", lambda a, name=name: qt.quantize_codebook(a, name))
        for name in ("mxfp4", "mxint8", "ternary")
    ),
    Function("quantize_codebook-binary", lambda a: qt.quantize_codebook(a, "binary", group_size="tensor")),
    Function("quantize_codebook-values", lambda a: qt.quantize_codebook(a, [-2, 0.5, 1], group_size="channel")),
    Function("cluster", lambda a: qt.cluster(a, 3)),
    Function("cluster-groups", lambda a: qt.cluster(a, 2, group_size=5)),
    Function("recognize_grid", qt.recognize_grid),
    Function("round_to_int", lambda a, **k: qt.round_to_int(a, 16, **k), out=lambda a: (a.shape, np.int8)),
    Function("sparse.from_dense", qt.sparse.from_dense),
    Function("sparse.from_dense-csr", lambda a: qt.sparse.from_dense(a, "csr")),
    Function("sparse.from_dense-3:4", lambda a: qt.sparse.from_dense(qt.prune(a, pattern="3:4"), "3:4"), multiple=4),
    Function("sparse.matmul", sparse_product),
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
    Function("distillation_loss", lambda a, **k: distillation_loss(a, other(a), **k)[1], out=scores),
    Function("distillation_loss-loss", lambda a: distillation_loss(a, other(a), temperature=2)[0]),
    Function(
        "distillation_loss-teacher",
        lambda a, **k: distillation_loss(other(a), [other(a), a], temperature=2, **k)[1],
        out=scores,
    ),
    Function("distillation_loss-labels", lambda a: distillation_loss(logits(a), -logits(a), a)[1], "labels"),
]


def bits_of(result: Any) -> list[tuple[Any, ...]]:
    """Everything that two equal results share, down to the bit."""
    parts = result.arrays() if isinstance(result, (qt.QuantizedTensor, qt.SparseTensor)) else [np.asarray(result)]
    return [(p.dtype, p.shape, p.tobytes()) for p in parts]
