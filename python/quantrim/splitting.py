"""Matrices and networks split and merged, and freed of units that do nothing.

Nothing is computed but the constant output of a removed unit: pieces hold the bytes of the whole, in any dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import checks
from .checks import Array
from .float_environment import default_floats
from .reference.lanes import sum_last_axis

__all__ = ["merge", "remove_units", "split"]

T = TypeVar("T")
Layer = tuple[NDArray[Any], NDArray[Any] | None]
Between = tuple[NDArray[Any] | None, ...]  # values of each unit between two layers, as a normalization has them
Activation = Callable[[NDArray[Any]], ArrayLike]


@overload
def split(w: list[T] | tuple[T, ...], parts: int | Sequence[int], axis: int = 0) -> list[list[T]]: ...
@overload
def split(w: NDArray[Any], parts: int | Sequence[int], axis: int = 0) -> list[NDArray[Any]]: ...
def split(w: Any, parts: int | Sequence[int], axis: int = 0) -> list[Any]:
    """Split an array along `axis`, or a list of layers into lists of them, for tensor and pipeline parallelism.

    w: an array of any shape and dtype, or a list or tuple of layers, which are kept whole.
    parts: how many, of equal sizes or, where that does not go, the first ones larger by one; or the size of each, which
    add up to the whole. Returns a list of arrays, views of w where it is one, or a list of lists. `merge` undoes it.

    >>> [p.tolist() for p in split(np.arange(5), 2)]
    [[0, 1, 2], [3, 4]]
    >>> split(["embedding", "layer 0", "layer 1", "head"], [1, 2, 1])
    [['embedding'], ['layer 0', 'layer 1'], ['head']]
    """
    if isinstance(w, (list, tuple)):
        if isinstance(axis, bool) or axis != 0:
            raise ValueError(f"axis must be 0 for a list of layers, not {axis!r}")
        return [list(w[begin:end]) for begin, end in _bounds(parts, len(w))]
    x = _array("w", w)
    k = checks.axis(axis, x.ndim)
    before = (slice(None),) * k
    cuts = [(*before, slice(begin, end)) for begin, end in _bounds(parts, x.shape[k])]
    return [x[cut] for cut in cuts]


@overload
def merge(parts: Sequence[list[T] | tuple[T, ...]], axis: int = 0) -> list[T]: ...
@overload
def merge(parts: Sequence[NDArray[Any]], axis: int = 0) -> NDArray[Any]: ...
def merge(parts: Sequence[Any], axis: int = 0) -> Any:
    """Merge what `split` gave: arrays along `axis`, or lists of layers end to end.

    parts: one or more arrays of one dtype, alike in all axes but this one; or lists or tuples. Returns a new array, or
    a list. Arrays that differ in dtype are refused, not converted.

    >>> merge([np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]])], axis=1).tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    >>> merge([["embedding"], ["layer 0", "layer 1"]])
    ['embedding', 'layer 0', 'layer 1']
    """
    if not isinstance(parts, (list, tuple)):
        raise TypeError(f"parts must be a list of arrays or of lists, not {type(parts).__name__}")
    if not parts:
        raise ValueError("parts must not be empty")
    if all(isinstance(p, (list, tuple)) for p in parts):
        if isinstance(axis, bool) or axis != 0:
            raise ValueError(f"axis must be 0 for lists of layers, not {axis!r}")
        return [layer for piece in parts for layer in piece]
    arrays = [_array(f"parts[{i}]", p) for i, p in enumerate(parts)]
    k = checks.axis(axis, arrays[0].ndim)
    for i, a in enumerate(arrays):
        if a.dtype != arrays[0].dtype:
            raise TypeError(f"parts must have one dtype, not {arrays[0].dtype} and, in parts[{i}], {a.dtype}")
        if a.ndim != arrays[0].ndim or _without(a.shape, k) != _without(arrays[0].shape, k):
            wanted = f"be alike in all axes but {k}"
            raise ValueError(f"parts must {wanted}, not {arrays[0].shape} and, in parts[{i}], {a.shape}")
    return np.concatenate(arrays, axis=k)


def remove_units(
    layers: Sequence[Sequence[ArrayLike | None]],
    keep: Sequence[ArrayLike | None],
    activation: Activation | None = None,
) -> list[Any]:
    """Make a smaller dense network that computes what one with masked units does: their rows and columns are removed.

    layers: (weight, bias) from the input to the output; weight (out, in) and bias (out,) or None, floats. A weight of
    more axes, such as (out, in, height, width), is cut along its first two. Tuples of arrays (units,), or None, between
    two layers follow the units before them: the weight, bias, mean and variance of a batch norm, say.
    keep: for each layer but the last, the units that stay: a bool mask (out,), indices in their new order, or None
    for all. Units are rows of their layer and columns of the next.
    activation: None where a removed unit put out 0, bias and all. A function of an array where masking cleared its
    weights alone: such a unit puts out activation(bias), whatever comes in, and that times its column is added to the
    next bias, in float64 (which is made where it was None). Folding needs weights of two axes: at the border of a
    padded image the sum would be another. Nor can anything be between the layers then.
    Returns a list of new tuples like `layers`, in their dtypes. (Srinivas and Babu 2015,
    "Data-free parameter pruning for deep neural networks"; Han et al. 2015 on dead neurons.)

    >>> hidden = np.float32([[1, 2], [3, 4], [0, 0]]), np.float32([0, 0, 5])
    >>> output = np.float32([[1, 1, 2]]), None
    >>> small = remove_units([hidden, output], [[True, True, False]], activation=lambda x: np.maximum(x, 0))
    >>> small[0][0].shape, small[1][0].tolist(), small[1][1].tolist()
    ((2, 2), [[1.0, 1.0]], [10.0])
    """
    given, between = _layers(layers)
    if between and activation is not None:
        raise ValueError("activation must be None with arrays between layers, which change what removed units put out")
    if not isinstance(keep, (list, tuple)) or len(keep) != len(given) - 1:
        said = len(keep) if isinstance(keep, (list, tuple)) else repr(type(keep).__name__)
        raise ValueError(f"keep must be a list of {len(given) - 1}, one for each layer but the last, not {said}")
    kept = [_units(f"keep[{i}]", k, len(w)) for i, ((w, _), k) in enumerate(zip(given[:-1], keep, strict=True))]
    smaller: list[Layer | Between] = []
    for i, (weight, bias) in enumerate(given):
        rows = kept[i] if i < len(kept) else np.arange(len(weight))
        columns = kept[i - 1] if i else np.arange(weight.shape[1])
        b = None if bias is None else bias[rows]
        if i and activation is not None:
            b = _folded(i, given, kept[i - 1], rows, activation)
        smaller.append((weight[np.ix_(rows, columns)], b))
        smaller += [tuple(None if a is None else a[rows] for a in arrays) for arrays in between.get(i, ())]
    return smaller


@default_floats
def _folded(i: int, layers: list[Layer], kept: NDArray[np.intp], rows: NDArray[np.intp], activation: Activation) -> Any:
    """Return the bias of layer i plus the constant output of the units removed before it; as it is where that is 0."""
    (_, before), (weight, bias) = layers[i - 1], layers[i]
    gone = np.setdiff1d(np.arange(weight.shape[1]), kept)
    own = None if bias is None else bias[rows]
    if before is None:
        before = np.zeros(weight.shape[1], weight.dtype)
    constant = np.asarray(activation(before[gone])).astype(np.float64)
    if constant.shape != gone.shape or not np.isfinite(constant).all():
        raise ValueError(f"activation must give a finite value for each of {gone.size} biases, not {constant!r:.200}")
    if not constant.any():
        return own
    if weight.ndim != 2:
        raise ValueError(f"layers[{i}] must have a weight of two axes to fold biases into it, not {weight.shape}")
    sums = sum_last_axis(weight[np.ix_(rows, gone)].astype(np.float64) * constant)
    if own is not None:
        sums += own.astype(np.float64)
    with np.errstate(over="ignore"):
        folded = sums.astype(weight.dtype if own is None else own.dtype)
    if not np.isfinite(folded.astype(np.float64)).all():
        raise ValueError(f"layers[{i}] must have a folded bias within {folded.dtype}, not one that overflows it")
    return folded


def _layers(layers: object) -> tuple[list[Layer], dict[int, list[Between]]]:
    """Return the layers, and by the number of a layer the arrays between it and the next."""
    if not isinstance(layers, (list, tuple)) or not layers:
        raise ValueError(f"layers must be a list of (weight, bias), one or more, not {layers!r:.200}")
    found: list[Layer] = []
    between: dict[int, list[Between]] = {}
    for i, layer in enumerate(layers):
        if 0 < i < len(layers) - 1 and _is_between(layer):
            shape, named = found[-1][0].shape[:1], enumerate(layer)
            arrays = [None if a is None else checks.weights(f"layers[{i}][{k}]", a, shape) for k, a in named]
            between.setdefault(len(found) - 1, []).append(tuple(arrays))
            continue
        if not isinstance(layer, (list, tuple)) or len(layer) != 2:
            raise ValueError(f"layers[{i}] must be (weight, bias), not {type(layer).__name__}")
        weight = checks.weights(f"layers[{i}] weight", layer[0])
        if weight.ndim < 2:
            raise ValueError(f"layers[{i}] weight must be (out, in, ...), not of shape {weight.shape}")
        if found and weight.shape[1] != len(found[-1][0]):
            units, inputs = len(found[-1][0]), weight.shape[1]
            raise ValueError(f"layers[{i}] must have an input for each of {units} units before it, not {inputs}")
        bias = None if layer[1] is None else checks.weights(f"layers[{i}] bias", layer[1], weight.shape[:1])
        found.append((weight, bias))
    return found, between


def _is_between(layer: object) -> bool:
    """Tell whether this is a tuple of arrays of one axis, or None."""
    given = [a for a in layer if a is not None] if isinstance(layer, (list, tuple)) else []
    return bool(given) and all(np.ndim(a) == 1 for a in given)


def _units(name: str, keep: object, count: int) -> NDArray[np.intp]:
    """Return which of `count` units stay, as indices."""
    if keep is None:
        return np.arange(count)
    units = checks.array(name, keep)
    if units.dtype == np.bool_:
        if units.shape != (count,):
            raise ValueError(f"{name} must mark each of {count} units, not be of shape {units.shape}")
        return np.flatnonzero(units)
    if units.ndim != 1 or (units.size and units.dtype.kind not in "iu"):
        raise TypeError(f"{name} must be a bool mask, integers or None, not {units.dtype} of shape {units.shape}")
    bad = (units < 0) | (units >= count)
    if bad.any():
        raise ValueError(f"{name} must be units, 0..{count - 1}, not {units[bad][0]}")
    if len(np.unique(units)) != units.size:
        raise ValueError(f"{name} must name each unit once")
    return units.astype(np.intp)


def _bounds(parts: int | Sequence[int], n: int) -> list[tuple[int, int]]:
    """Return where each piece begins and ends."""
    if isinstance(parts, (list, tuple)):
        sizes = [checks.integer("parts", size, 0, n) for size in parts]
        if sum(sizes) != n or not sizes:
            raise ValueError(f"parts must be sizes that add up to {n}, not {list(parts)}")
    else:
        count = checks.integer("parts", parts, 1, max(n, 1))
        sizes = [n // count + (i < n % count) for i in range(count)]
    ends = np.cumsum(sizes).tolist()
    return [(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _array(name: str, a: object) -> Array:
    x = checks.array(name, a)
    if x.ndim == 0:
        raise ValueError(f"{name} must have at least one axis, not shape ()")
    return x


def _without(shape: tuple[int, ...], k: int) -> tuple[int, ...]:
    return shape[:k] + shape[k + 1 :]
