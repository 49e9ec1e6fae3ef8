"""Errors that rounding and pruning cost a tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ... import backend
from ...checks import Array, rows
from ...tensor import QuantizedTensor, columns_per_group


@dataclass
class Errors:
    """Sums over the weights a and what their codes decode to, b; added up chunk by chunk, in order."""

    sums: Array = field(default_factory=lambda: np.zeros(4))  # of a*a, b*b, a*b, (a-b)**2
    worst: float = 0.0
    count: int = 0
    zeros: int = 0  # of b
    underflowed_groups: int = 0  # whose scale became 0 though they hold a weight that is not
    kept: int = 0  # weights that pruning left and that are not 0, where they became codes

    def add(self, other: Errors) -> None:
        self.sums = self.sums + other.sums
        self.worst = max(self.worst, other.worst)
        self.count += other.count
        self.zeros += other.zeros
        self.underflowed_groups += other.underflowed_groups
        self.kept += other.kept

    @property
    def snr_db(self) -> float | None:
        """Signal to noise in dB; infinity without noise, None without signal."""
        signal, noise = float(self.sums[0]), float(self.sums[3])
        if not signal:
            return None
        return 10 * math.log10(signal / noise) if noise else math.inf

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between a and b; None where one of them is 0."""
        a, b, ab = map(float, self.sums[:3])
        return ab / (math.sqrt(a) * math.sqrt(b)) if a and b else None

    @property
    def sparsity(self) -> float:
        return self.zeros / self.count if self.count else 0.0


def measure(a: Array, b: Array) -> Errors:
    """Sum the errors between a and b: matrices of one shape, finite."""
    return measure_each(a, b, 1)[0]


def measure_each(a: Array, b: Array, count: int) -> list[Errors]:
    """Sum the same for `count` matrices of equal shape, one below the other."""
    table = np.empty((*rows(a).shape[:1], 5))
    backend.active.errors(rows(a), rows(b), table)
    each = table.reshape(count, -1, 5)
    sums, worst = each[:, :, :4].sum(axis=1), each[:, :, 4].max(axis=1, initial=0.0).tolist()
    size = b.size // count
    zeros = [size - backend.active.count_nonzero(matrix) for matrix in b.reshape(count, size)]
    return [Errors(sums[k], worst[k], size, zeros[k]) for k in range(count)]


def count_underflowed_groups(x: Array, q: QuantizedTensor) -> int:
    """Count groups of the codes q of x, (rows, cols), with scale 0 and a weight that is not 0."""
    if q.scales.all() or not backend.active.count_nonzero(x.ravel()):
        return 0
    if q.group_size == "tensor":
        return 1
    starts = np.arange(0, x.shape[1], columns_per_group(q.group_size, x.shape[1]))
    used = np.logical_or.reduceat(x != 0, starts, axis=1)
    return int(np.count_nonzero(used & (q.scales == 0)))
