"""The distance of two checkpoints, tensor by tensor, in whatever layout each is."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ... import backend, checks, reference
from ...checks import Array
from ...files import open_checkpoint
from ...files.disk.errors import quote
from ...float_environment import default_floats
from ...layouts.base import Chunk
from ..streaming.row_blocks import Tensor, measured
from ..streaming.tensors import logical_tensors
from .inspect import bytes_done, has_numbers


@dataclass(frozen=True)
class Difference:
    """The distance of b from a, where both are finite; a is what b is measured against.

    signal, other: sums of the squares of a and of b. product: sum of a * b. noise: sum of (a - b)**2. worst:
    the largest |a - b|. highest: the largest |a|. nonfinite: places where a or b is NaN or infinite and
    they differ. equal: whether every value is the same; one NaN is like another.
    """

    name: str
    shape: tuple[int, ...]
    label: tuple[str, str]
    nbytes: tuple[int, int]
    signal: float = 0.0
    other: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    worst: float = 0.0
    highest: float = 0.0
    nonfinite: int = 0
    equal: bool = True

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in dB: 10 log10(sum a**2 / sum (a - b)**2); infinite where they are equal."""
        return snr(self.signal, self.noise) if not self.equal else math.inf

    @property
    def cosine(self) -> float:
        """Cosine of the angle between a and b as vectors; 1 where they are equal, NaN where one of them is zero."""
        if self.equal:
            return 1.0
        norms = math.sqrt(self.signal) * math.sqrt(self.other)
        return min(1.0, max(-1.0, self.product / norms)) if norms else math.nan

    @property
    def relative(self) -> float:
        """The worst error as a share of the largest |a|."""
        if self.worst == 0:
            return 0.0
        return self.worst / self.highest if self.highest else math.inf


@dataclass(frozen=True)
class Comparison:
    """Checkpoint b beside a. missing: only in a. extra: only in b. reshaped: name, shape in a, shape in b. nbytes: the
    files of weights, headers and all, as in a report of `compress`."""

    differences: tuple[Difference, ...]
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    nbytes: tuple[int, int] = field(default=(0, 0))

    @property
    def matching(self) -> bool:
        """Whether both have the same tensors in the same shapes."""
        return not (self.missing or self.extra or self.reshaped)

    @property
    def equal(self) -> bool:
        return self.matching and all(d.equal for d in self.differences)

    @property
    def snr(self) -> float:
        """SNR of all the tensors that differ, as if they were one; infinite where none does.

        Tensors that are equal would drown the others: an index of positions has more signal than all weights.
        """
        apart = [d for d in self.differences if not d.equal]
        return snr(sum(d.signal for d in apart), sum(d.noise for d in apart))


def snr(signal: float, noise: float) -> float:
    """Compute dB from sums of squares: infinite without noise, minus infinite for noise without signal.

    >>> round(snr(1000.0, 1.0), 3), snr(1.0, 0.0), snr(0.0, 1.0)
    (30.0, inf, -inf)
    """
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal else -math.inf


@default_floats
def compare(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Compare two checkpoints, files or model folders, float or compressed: b against a.

    progress: called with (bytes of a done, bytes in all, tensor).
    """
    with open_checkpoint(a) as first, open_checkpoint(b) as second:
        found = compare_tensors(logical_tensors(first), logical_tensors(second), progress)
        return replace(found, nbytes=(first.file_bytes, second.file_bytes))


def compare_tensors(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], progress: Callable[[int, int, str], None] | None = None
) -> Comparison:
    """Compare tensors by name as `compare` does; they are read in blocks. nbytes: of the tensors."""
    both = [name for name in a if name in b]
    same = [name for name in both if tuple(a[name].shape) == tuple(b[name].shape)]
    advance = progress and bytes_done([a[name] for name in same], progress)
    return Comparison(
        differences=tuple(_differences([(a[name], b[name]) for name in same], advance)),
        missing=tuple(name for name in a if name not in b),
        extra=tuple(name for name in b if name not in a),
        reshaped=tuple((name, tuple(a[name].shape), tuple(b[name].shape)) for name in both if name not in set(same)),
        nbytes=(sum(t.nbytes for t in a.values()), sum(t.nbytes for t in b.values())),
    )


def difference(a: Tensor, b: Tensor) -> Difference:
    """Measure how far b is from a, two tensors of one shape.

    ValueError where they differ and one of them holds no real numbers.
    """
    return next(_differences([(a, b)]))


def _differences(
    pairs: Sequence[tuple[Tensor, Tensor]], advance: Callable[[Tensor, int], object] | None = None
) -> Iterator[Difference]:
    others = {id(a): b for a, b in pairs}

    def measure(a: Tensor, block: Chunk) -> _Block:
        b = others[id(a)]
        x, y = (t.rows(block.row, block.rows).reshape(block.rows, -1) for t in (a, b))
        return _block(x, y)

    for a, blocks in measured([a for a, _ in pairs], measure, advance):
        yield _difference(a, others[id(a)], blocks)


def _difference(a: Tensor, b: Tensor, blocks: Sequence[_Block]) -> Difference:
    equal = all(block.equal for block in blocks)
    if not equal and not (has_numbers(a) and has_numbers(b)):
        labels = f"{a.label} and {b.label}"
        raise ValueError(f"tensor {quote(a.name)} must be of real numbers to be compared, not {labels}")
    sums = np.array([block.sums for block in blocks]).reshape(-1, 4).sum(0)
    return Difference(
        name=a.name,
        shape=tuple(a.shape),
        label=(a.label, b.label),
        nbytes=(a.nbytes, b.nbytes),
        signal=float(sums[0]),
        other=float(sums[1]),
        product=float(sums[2]),
        noise=float(sums[3]),
        worst=max((block.worst for block in blocks), default=0.0),
        highest=max((block.highest for block in blocks), default=0.0),
        nonfinite=sum(block.nonfinite for block in blocks),
        equal=equal,
    )


@dataclass(frozen=True)
class _Block:
    sums: tuple[float, float, float, float]  # signal, other, product, noise
    worst: float
    highest: float
    nonfinite: int
    equal: bool


def _block(x: Array, y: Array) -> _Block:
    rows, cols = x.shape
    out = np.empty((rows, 5))
    if x.dtype in checks.FLOATS and y.dtype in checks.FLOATS and backend.active.errors(x, y, out):
        low, high = np.empty((2, rows, 1), np.float32)
        backend.active.ranges(x, cols, low, high)
        highest = max(-float(low.min()), float(high.max()))
        return _summed(out, highest, 0, not out[:, 4].any())
    return _slow_block(x, y, out)


def _slow_block(x: Array, y: Array, out: Array) -> _Block:
    """Sum a block of any dtype in float64. Places where a value is not finite do not count towards the sums."""
    same = (x == y) | ((x != x) & (y != y))
    if "c" in (x.dtype.kind, y.dtype.kind):  # of which only that they are equal can be said
        return _summed(np.zeros((1, 5)), 0.0, 0, bool(same.all()))
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = np.where(finite, x, x.dtype.type(0)), np.where(finite, y, y.dtype.type(0))
    reference.errors(x, y, out)
    highest = float(np.abs(x.astype(np.float64)).max())
    return _summed(out, highest, int(np.count_nonzero(~finite & ~same)), bool(same.all()))


def _summed(out: Array, highest: float, nonfinite: int, equal: bool) -> _Block:
    signal, other, product, noise = map(float, out[:, :4].sum(0))
    return _Block((signal, other, product, noise), float(out[:, 4].max()), highest, nonfinite, equal)
