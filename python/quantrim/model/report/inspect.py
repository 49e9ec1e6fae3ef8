"""The contents of a checkpoint: every tensor as a model sees it, in whatever layout it is, with statistics.

Tensors are read in blocks, so that memory does not grow with the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ... import backend, checks
from ...checks import Array
from ...files import DTYPES, open_checkpoint
from ...files.disk.strict_json import collector_paused
from ...float_environment import default_floats
from ...layouts.base import Chunk
from ..streaming.row_blocks import Tensor, measured
from ..streaming.tensors import logical_tensors

SAMPLE = 1 << 18  # values of a tensor that its histogram is drawn from
BINS = 17  # odd, so that the zeros of a symmetric tensor are in the middle one
SPAN = 4.0  # a histogram reaches this many standard deviations to either side of the mean


@dataclass(frozen=True)
class Histogram:
    """Counts of values in equal bins from low to high; those beyond are in the first and the last bin."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Statistics:
    """low, high, rms: of finite values. zeros: exact ones, of either sign. nonfinite: NaN and infinities."""

    count: int
    zeros: int
    nonfinite: int
    low: float
    high: float
    rms: float
    histogram: Histogram

    @property
    def sparsity(self) -> float:
        return self.zeros / self.count if self.count else 0.0


@dataclass(frozen=True)
class TensorSummary:
    """nbytes: in the file, scales and all. statistics: None where they were not asked for or mean nothing."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    label: str
    nbytes: int
    statistics: Statistics | None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / self.size if self.size else 0.0


@dataclass(frozen=True)
class Summary:
    """A whole checkpoint. nbytes: of all tensors in the files. format: of its files. notes: what their readers left
    out, transposed, or found shared."""

    path: str
    shards: tuple[str, ...]
    metadata: dict[str, str]
    tensors: tuple[TensorSummary, ...]
    format: str = ""
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)

    @property
    def size(self) -> int:
        return sum(t.size for t in self.tensors)

    @property
    def sparsity(self) -> float:
        """Sparsity of the tensors that have statistics."""
        known = [t.statistics for t in self.tensors if t.statistics]
        return sum(s.zeros for s in known) / max(1, sum(s.count for s in known))


def has_numbers(tensor: Tensor) -> bool:
    """Tell whether `rows` gives real numbers: no complex ones, no packed bytes of codes without a dtype here."""
    dtype = tensor.label.partition(" ")[0]  # "F4 as byte planes"
    return DTYPES.get(dtype, (8, None))[0] >= 8 and np.dtype(tensor.dtype).kind != "c"


@dataclass(frozen=True)
class _BlockStats:
    """The statistics of one block. sample: float32, as it is."""

    zeros: int
    nonfinite: int
    low: float
    high: float
    squares: float
    sample: Array


def statistics(tensor: Tensor) -> Statistics:
    """Compute the statistics of a tensor of any real dtype.

    The histogram is drawn from at most SAMPLE values, evenly spaced in the tensor.
    """
    return next(_statistics([tensor]))


def _statistics(
    tensors: Sequence[Tensor], advance: Callable[[Tensor, int], object] | None = None
) -> Iterator[Statistics]:
    for tensor, blocks in measured(tensors, _block_stats, advance):
        count = math.prod(tensor.shape)
        nonfinite = sum(block.nonfinite for block in blocks)
        known = count - nonfinite
        yield Statistics(
            count=count,
            zeros=sum(block.zeros for block in blocks),
            nonfinite=nonfinite,
            low=min((block.low for block in blocks), default=math.inf) if known else math.nan,
            high=max((block.high for block in blocks), default=-math.inf) if known else math.nan,
            rms=math.sqrt(sum(block.squares for block in blocks) / known) if known else math.nan,
            histogram=_histogram([block.sample for block in blocks]),
        )


def _block_stats(tensor: Tensor, block: Chunk) -> _BlockStats:
    x = tensor.rows(block.row, block.rows).reshape(block.rows, -1)
    sample = _sample(x.ravel(), block.row * block.cols, math.prod(tensor.shape))
    if x.dtype in checks.FLOATS:
        sums = np.empty((block.rows, 5))
        if backend.active.errors(x, x, sums):
            low, high = np.empty((2, block.rows, 1), np.float32)
            backend.active.ranges(x, block.cols, low, high)
            zeros = x.size - backend.active.count_nonzero(x.ravel())
            return _BlockStats(zeros, 0, float(low.min()), float(high.max()), float(sums[:, 0].sum()), sample)
    return _stats_of_doubles(x.ravel().astype(np.float64), sample)


def _stats_of_doubles(x: Array, sample: Array) -> _BlockStats:
    """Summarize a block of float64 values, of which some may be NaN or infinite."""
    finite = x[np.isfinite(x)]
    zeros, nonfinite = int(np.count_nonzero(finite == 0)), x.size - finite.size
    with np.errstate(over="ignore"):
        squares = float((finite * finite).sum())
    low, high = float(finite.min(initial=math.inf)), float(finite.max(initial=-math.inf))
    return _BlockStats(zeros, nonfinite, low, high, squares, sample)


def _sample(x: Array, first: int, size: int) -> Array:
    """Return evenly spaced values of a tensor of `size`, as float32; x: those from number `first` on."""
    # odd, so that a power-of-two row length does not give the same columns again and again
    stride = -(-size // SAMPLE) | 1
    with np.errstate(over="ignore", invalid="ignore"):
        return x[-first % stride :: stride].astype(np.float32)


def _histogram(samples: Sequence[Array]) -> Histogram:
    x = np.concatenate([np.empty(0, np.float32), *samples]).astype(np.float64)
    x = x[np.isfinite(x)]
    if not x.size:
        return Histogram(math.nan, math.nan, (0,) * BINS)
    mean, reach = float(x.mean()), SPAN * float(x.std())
    low, high = max(float(x.min()), mean - reach), min(float(x.max()), mean + reach)
    if not high > low:  # one value: a bin to either side
        reach = abs(low) * 2.0**-20 or 1.0
        low, high = low - reach, high + reach
    counts, _ = np.histogram(np.clip(x, low, high), BINS, (low, high))
    return Histogram(low, high, tuple(map(int, counts)))


@default_floats
def inspect(
    path: str | os.PathLike[str],
    *,
    stats: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> Summary:
    """List every tensor of a checkpoint as a model sees it: a compressed one counts as one tensor, decoded.

    path: a file or a model folder. stats: False reads headers only.
    progress: called with (bytes done, bytes in all, tensor) as tensors are read.
    """
    with open_checkpoint(path) as checkpoint:
        with collector_paused():
            tensors = logical_tensors(checkpoint)
        known = {name: t for name, t in tensors.items() if stats and has_numbers(t)}
        advance = progress and bytes_done(list(known.values()), progress)
        found = dict(zip(known, _statistics(list(known.values()), advance), strict=True))
        summaries = tuple(_summary(name, tensor, found.get(name)) for name, tensor in tensors.items())
        said = checkpoint.format, checkpoint.notes
        return Summary(os.fspath(path), tuple(checkpoint.shards), dict(checkpoint.metadata), summaries, *said)


def bytes_done(tensors: Sequence[Tensor], progress: Callable[[int, int, str], None]) -> Callable[[Tensor, int], None]:
    """Return what tells `progress` the bytes done of all, from elements done of one tensor; they come in order."""
    before, total = {}, 0
    for tensor in tensors:
        before[tensor.name] = total
        total += tensor.nbytes

    def advance(tensor: Tensor, elements: int) -> None:
        within = tensor.nbytes * elements // max(1, math.prod(tensor.shape))
        progress(before[tensor.name] + within, total, tensor.name)

    return advance


def _summary(name: str, tensor: Tensor, found: Statistics | None) -> TensorSummary:
    shape = tuple(tensor.shape)
    return TensorSummary(name, shape, str(tensor.dtype), tensor.label, tensor.nbytes, found)
