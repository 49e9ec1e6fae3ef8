"""Comparisons of before and after: directions of embeddings, who is near whom, how well a text is foretold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def cosines(a: Array, b: Array) -> Array:
    """Compute the cosine of each row of a (n, d) with the same row of b, float64 (n,)."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray((x * y).sum(axis=1) / lengths)


def neighbours(embeddings: Array, k: int) -> Array:
    """Find the k other rows with the largest cosines to each row, nearest first; of equals the first."""
    x = embeddings.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    near = x @ x.T
    np.fill_diagonal(near, -np.inf)
    return np.argsort(-near, axis=1, kind="stable")[:, :k]


def neighbour_overlap(a: Array, b: Array, k: int = 10) -> float:
    """Compute the share of the k nearest neighbours in a that are among the k nearest in b, mean over rows."""
    pairs = zip(neighbours(a, k).tolist(), neighbours(b, k).tolist(), strict=True)
    return float(np.mean([len(set(x) & set(y)) / k for x, y in pairs]))


def perplexity(nll: Array) -> float:
    """Compute exp of the mean of negative log-likelihoods (natural logarithm) of tokens."""
    return float(np.exp(nll.astype(np.float64).mean()))


def agreement(a: Array, b: Array) -> float:
    """Compute the share of places at which two arrays are equal."""
    return float(np.mean(a == b))


def largest_difference(begin: Array, whole: Array) -> float:
    """Find the largest |begin - whole| in the first rows, as a share of the largest |whole| there; infinite for NaN."""
    first = whole[: len(begin)].astype(np.float64)
    difference = np.abs(begin.astype(np.float64) - first).max() / np.abs(first).max()
    return float(np.nan_to_num(difference, nan=np.inf))
