"""Scores of several arrays compared with each other: ranks, and one budget of zeros for all of them.

Of equal scores the earlier array comes first, then the lower index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import backend, checks
from .checks import Array
from .float_environment import default_floats

K = TypeVar("K")
Masks = NDArray[np.bool_]
ScoreFunction = Callable[[K, Array], ArrayLike]
KEY_HALVES = 1 << 16  # of a key: so many values has each


class Arrays(Protocol[K]):
    """Arrays by name: a mapping, or a checkpoint."""

    def __iter__(self) -> Iterator[K]: ...
    def __getitem__(self, name: K, /) -> Any: ...


@overload
def rank(scores: Mapping[K, ArrayLike]) -> dict[K, NDArray[np.int64]]: ...
@overload
def rank(scores: Sequence[ArrayLike]) -> list[NDArray[np.int64]]: ...
@default_floats
def rank(scores: Mapping[K, ArrayLike] | Sequence[ArrayLike]) -> dict[K, NDArray[np.int64]] | list[NDArray[np.int64]]:
    """Rank every score among those of all arrays: 0 for the lowest, the first that a budget removes.

    scores: arrays by name, or in a list; any shapes. Returns int64 arrays of these shapes in the same container; of
    equal scores the earlier array has the lower rank, then the lower index, so that `ranks < k` marks exactly k.

    >>> rank({"fc1": [3.0, 1.0], "fc2": [[2.0], [1.0]]})["fc2"].tolist()
    [[2], [1]]
    """
    names, arrays = _arrays("scores", scores)
    flat = np.concatenate([np.zeros(0, np.float32), *(a.ravel().astype(np.float32) for a in arrays)])
    places = np.empty(flat.size, np.int64)
    places[np.argsort(flat, kind="stable")] = np.arange(flat.size)
    ends = np.cumsum([a.size for a in arrays])
    ranks = [places[end - a.size : end].reshape(a.shape) for a, end in zip(arrays, ends, strict=True)]
    return ranks if names is None else dict(zip(names, ranks, strict=True))


@overload
def global_masks(scores: Mapping[K, ArrayLike], sparsity: float) -> dict[K, Masks]: ...
@overload
def global_masks(scores: Sequence[ArrayLike], sparsity: float) -> list[Masks]: ...
def global_masks(scores: Mapping[K, ArrayLike] | Sequence[ArrayLike], sparsity: float) -> dict[K, Masks] | list[Masks]:
    """Make the masks that remove the lowest scores of all arrays together: one budget for a model, not one for each
    array.

    scores: arrays by name, or in a list; any shapes, signed: a score of -1 is below one of 0. Exactly
    round(sparsity * n) of all n scores go, lowest first, of equals those of the earlier array, then of the lower index.
    Returns bool arrays, True where a weight stays, in the same container.

    >>> global_masks({"fc1": [3.0, 1.0], "fc2": [[2.0], [0.5]]}, 0.5)["fc1"].tolist()
    [True, False]
    """
    sparsity = checks.number("sparsity", sparsity, 0.0, 1.0)
    names, arrays = _arrays("scores", scores)
    cut, ties = _cut(lambda: (("scores", a.ravel()) for a in arrays), sparsity, False)
    masks = []
    for a in arrays:
        mask = np.empty(a.shape, np.bool_)
        ties -= backend.active.mask_below(a.ravel(), False, cut, ties, mask.ravel())
        masks.append(mask)
    return masks if names is None else dict(zip(names, masks, strict=True))


def prune_model(
    weights: Arrays[K], sparsity: float, *, scores: Arrays[K] | ScoreFunction[K] | None = None
) -> Iterator[tuple[K, NDArray[Any]]]:
    """Zero the weights with the lowest scores of a whole model: one threshold for all of its arrays (Han et al. 2015).

    weights: arrays by name, of any shapes; or what gives them when asked, such as `open_checkpoint(path)`: each is
    asked for three times, and only one is held at a time. scores: like the weights, or a function of (name, w) that
    returns them; by default |w|. Exactly round(sparsity * n) of all n weights go; ties as in `global_masks`.
    Returns an iterator of (name, pruned array) in the order of `weights`, in each array's dtype. What is wrong with an
    array is said at once, not on the way.

    >>> dict(prune_model({"fc1": [3.0, -1.0], "fc2": [[-2.0], [0.5]]}, 0.5))["fc2"].tolist()
    [[-2.0], [0.0]]
    """
    sparsity = checks.number("sparsity", sparsity, 0.0, 1.0)
    if isinstance(weights, (Sequence, np.ndarray)):
        raise TypeError(f"weights must be arrays by name, not {type(weights).__name__}")
    cut, ties = _cut(lambda: _scored(weights, scores), sparsity, scores is None)
    return _pruned(weights, scores, cut, ties)


def _scored(weights: Arrays[K], scores: Arrays[K] | ScoreFunction[K] | None) -> Iterator[tuple[str, Array]]:
    """Iterate over the scores of each array, flat, with what to call them in an error."""
    for name in weights:
        w = checks.weights(f"weights[{name!r}]", weights[name])
        if scores is None:
            yield f"weights[{name!r}]", _scores_of(name, w, None)
            continue
        checks.finite(f"weights[{name!r}]", w, backend.kernels_of(w).is_finite(w.ravel()))
        yield f"scores[{name!r}]", _scores_of(name, w, scores)


def _scores_of(name: K, w: Array, scores: Arrays[K] | ScoreFunction[K] | None) -> Array:
    if scores is None:
        return checks.floats(f"weights[{name!r}]", w).ravel()
    found = scores(name, w) if callable(scores) else scores[name]
    return checks.floats(f"scores[{name!r}]", found, w.shape).ravel()


def _pruned(
    weights: Arrays[K], scores: Arrays[K] | ScoreFunction[K] | None, cut: int, ties: int
) -> Iterator[tuple[K, NDArray[Any]]]:
    for name in weights:
        taken, out = _pruned_array(name, weights[name], scores, cut, ties)
        ties -= taken
        yield name, out


def _pruned_array(
    name: K, weights: ArrayLike, scores: Arrays[K] | ScoreFunction[K] | None, cut: int, ties: int
) -> tuple[int, NDArray[Any]]:
    """Prune one array; returns how many of the ties it took, and the array."""
    w = checks.weights(f"weights[{name!r}]", weights)
    out = np.empty_like(w)
    by = _scores_of(name, w, scores)
    if w.dtype == checks.FLOAT64:
        keep = np.empty(w.shape, np.bool_)
        taken = backend.active.mask_below(by, scores is None, cut, ties, keep.ravel())
        backend.kernels_of(w).apply_mask(w, keep, out)
        return taken, out
    return backend.active.prune_below(w.ravel(), by, scores is None, cut, ties, out.ravel()), out


def _cut(scores: Callable[[], Iterator[tuple[str, Array]]], sparsity: float, absolute: bool) -> tuple[int, int]:
    return key_at(sparsity, lambda upper: _counted(scores(), absolute, upper))


@default_floats
def removed(sparsity: float, n: int) -> int:
    """Count the weights that leave a comparison set of n."""
    return round(sparsity * n)


def key_at(sparsity: float, counted: Callable[[int | None], NDArray[np.int64]]) -> tuple[int, int]:
    """Find the key at the cut: keys below it go, and so many of those equal to it as the second number says.

    Two passes: `counted(None)` counts the upper halves of all keys, then `counted(upper)` the lower halves of those
    whose upper half is the cut's, as `count_keys` does.
    """
    bins = counted(None)
    size = int(bins.sum())
    count = removed(sparsity, size)
    if count in (0, size):
        return (2**31 - 1 if count else -(2**31)), 0
    upper, count = _bin_of(count, bins)
    upper -= KEY_HALVES // 2
    bins = counted(upper)
    lower, count = _bin_of(count, bins)
    key = upper * KEY_HALVES + lower
    return (key + 1, 0) if count == bins[lower] else (key, count)


def _counted(scores: Iterator[tuple[str, Array]], absolute: bool, upper: int | None) -> NDArray[np.int64]:
    bins = np.zeros(KEY_HALVES, np.int64)
    for name, s in scores:
        checks.finite(name, s, backend.active.count_keys(s, absolute, upper, bins))
    return bins


def _bin_of(count: int, bins: NDArray[np.int64]) -> tuple[int, int]:
    """Find the bin of the `count`-th, counted from 1, and how many of its own reach it."""
    reached = np.cumsum(bins)
    at = int(np.searchsorted(reached, count))
    return at, count - int(reached[at] - bins[at])


def _arrays(name: str, given: Mapping[K, ArrayLike] | Sequence[ArrayLike]) -> tuple[list[K] | None, list[Array]]:
    """Return finite arrays of floats, given by name or in a list, and their names, if they have any."""
    names: list[K] | None = None
    if isinstance(given, Mapping):
        names, values = list(given), list(given.values())
    elif isinstance(given, (list, tuple)):
        values = list(given)
    else:
        raise TypeError(f"{name} must be a mapping or a list of arrays, not {type(given).__name__}")
    said = [f"{name}[{key!r}]" for key in (range(len(values)) if names is None else names)]
    arrays = [checks.floats(n, a) for n, a in zip(said, values, strict=True)]
    for n, a in zip(said, arrays, strict=True):
        checks.finite(n, a, backend.active.is_finite(a.ravel()))
    return names, arrays
