"""Which tensors of a checkpoint belong together: by their layer, or by what a file may hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from ... import backend, checks
from ...files import Checkpoint, FormatError, TensorInfo, encode_header
from ...layouts.base import Chunk
from ..encode.index import whole_header
from ..plan.output_files import by_size, file_name, header_begin
from ..report.inspect import bytes_done
from ..streaming.row_blocks import measured
from ..streaming.tensors import LogicalTensor, logical_tensors

T = TypeVar("T")
Progress = Callable[[int, int, str], None]  # bytes done, of how many, the tensor at work
_NUMBER = re.compile(r"(?:^|\.)(\d{1,9})(?=\.)")  # of a layer, in "model.layers.12.mlp.up.weight"


@dataclass(frozen=True)
class Shard:
    """Tensors that go into one file. size: of the file in bytes, header and all. offsets: where each begins in it."""

    name: str
    tensors: tuple[TensorInfo, ...]
    size: int
    header: bytes = field(repr=False)
    offsets: dict[str, int] = field(repr=False)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)


@dataclass(frozen=True)
class WeightShare:
    """The weight of a file or a layer. l1: sum of |w|. share: of the l1 of the whole model. rms: of its weights.
    Tensors that hold no floats count for nothing."""

    name: str
    count: int
    l1: float
    share: float
    rms: float


def layer_of(name: str) -> tuple[str, int] | None:
    """Return the layer that a tensor belongs to, by the first number in its name; None for one without.

    >>> layer_of("model.layers.12.mlp.experts.3.up.weight"), layer_of("lm_head.weight")
    (('model.layers', 12), None)
    """
    found = _NUMBER.search(name)
    return (name[: found.start()], int(found[1])) if found else None


def layers_of(names: Iterable[str]) -> dict[str, str | None]:
    """Map each tensor to its layer, as "model.layers.12"; None for those of none.

    Where no name has a number, a layer is a module: all of the name but its last word.

    >>> layers_of(["embed.weight", "h.0.w", "h.1.w"])
    {'embed.weight': None, 'h.0.w': 'h.0', 'h.1.w': 'h.1'}
    >>> layers_of(["fc1.weight", "fc1.bias"])
    {'fc1.weight': 'fc1', 'fc1.bias': 'fc1'}
    """
    numbered = {name: layer_of(name) for name in names}
    if not any(numbered.values()):
        return {name: name.rpartition(".")[0] or name for name in numbered}
    return {name: None if at is None else f"{at[0]}.{at[1]}".lstrip(".") for name, at in numbered.items()}


def plan_shards(checkpoint: Checkpoint, max_size: int | None = None, layers: int | None = None) -> list[Shard]:
    """Plan the files to cut a checkpoint into: of at most `max_size` bytes each, or of `layers` layers each.

    Tensors stay whole and in order: of the files, or, by layers, of those; tensors of no layer get a file of their own,
    the first. A tensor that is too large for a file gets one of its own. ValueError where both are given, or neither.
    """
    if (max_size is None) == (layers is None):
        which = "" if layers is None else ", not both"
        raise ValueError(f"give either max_size or layers{which}, to say how large the files become")
    if max_size is not None:
        groups = _by_size(checkpoint, checks.integer("max_size", max_size, 1, 2**62))
    else:
        groups = _by_layers(checkpoint, checks.integer("layers", layers, 1, 2**31))
    groups = groups or [[]]
    return [shard_of(checkpoint, file_name(k, len(groups)), group, max_size) for k, group in enumerate(groups)]


def shard_of(checkpoint: Checkpoint, name: str, tensors: Sequence[TensorInfo], max_size: int | None = None) -> Shard:
    """Plan a file of these tensors, with the metadata of the checkpoint.

    All of them keep the header of the file that they come from, where that is known and no reason to exceed
    `max_size`: so the file is the same to the byte."""
    nbytes = sum(t.nbytes for t in tensors)
    if len(tensors) == len(checkpoint.tensors):
        known = whole_header(checkpoint, tensors)
        if known is not None and (max_size is None or len(known[0]) + nbytes <= max_size):
            return Shard(name, tuple(tensors), len(known[0]) + nbytes, *known)
    header, places = encoded_header(checkpoint, tensors)
    offsets = {name: len(header) + begin for name, (begin, _) in places.items()}
    return Shard(name, tuple(tensors), len(header) + nbytes, header, offsets)


def encoded_header(checkpoint: Checkpoint, tensors: Sequence[TensorInfo]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Encode a header as `encode_header` does, with the metadata of the checkpoint."""
    return encode_header([(t.name, t.dtype, t.shape) for t in tensors], checkpoint.metadata or None)


def _by_size(checkpoint: Checkpoint, limit: int) -> list[list[TensorInfo]]:
    begin = header_begin(checkpoint.metadata)
    return by_size(checkpoint.tensors.values(), lambda t: [(t.name, t.dtype, t.shape, t.nbytes)], begin, limit)


def _by_layers(checkpoint: Checkpoint, count: int) -> list[list[TensorInfo]]:
    layers = layers_of(checkpoint.tensors)
    rest = [t for name, t in checkpoint.tensors.items() if layers[name] is None]
    known: dict[str, list[TensorInfo]] = {}
    for name in sorted(checkpoint.tensors, key=lambda name: layer_of(name) or ("", 0)):  # stable: in file order else
        layer = layers[name]
        if layer is not None:
            known.setdefault(layer, []).append(checkpoint.tensors[name])
    each = list(known.values())
    groups = [[t for layer in each[k : k + count] for t in layer] for k in range(0, len(each), count)]
    return [rest, *groups] if rest else groups


def scores(checkpoint: Checkpoint, groups: dict[str, str], progress: Progress | None = None) -> list[WeightShare]:
    """Compute the weight of each group; groups: tensor name -> group, in whose order the scores are.

    Compressed tensors count as what they decode to. FormatError for NaN and infinity.
    """
    tensors = [
        t
        for t in logical_tensors(checkpoint).values()
        if np.dtype(t.dtype) in (*checks.FLOATS, np.dtype(np.float64)) and groups.get(_name_in_file(t)) is not None
    ]
    advance = None if progress is None else bytes_done(tensors, progress)
    sums = {group: np.zeros(3) for group in groups.values()}
    for tensor, found in measured(tensors, _weight, advance):
        sums[groups[_name_in_file(tensor)]] += sum(found, np.zeros(3))
    total = sum(float(s[1]) for s in sums.values())
    return [
        WeightShare(
            name=group,
            count=int(s[0]),
            l1=float(s[1]),
            share=float(s[1]) / total if total else 0.0,
            rms=float(np.sqrt(s[2] / s[0])) if s[0] else 0.0,
        )
        for group, s in sums.items()
    ]


def _name_in_file(tensor: LogicalTensor) -> str:
    return next(iter(tensor.arrays.values())).name


def _weight(tensor: LogicalTensor, block: Chunk) -> checks.Array:
    """Sum a block: (3,) float64, how many weights, the sums of their magnitudes and of their squares."""
    x = tensor.rows(block.row, block.rows).reshape(block.rows, -1)
    x = x if x.dtype in checks.FLOATS else checks.floats("weights", x)
    norms = np.empty((2, block.rows), np.float32)
    finite = [backend.active.norm_rows(x, power, norms[power - 1]) for power in (1, 2)]
    if not all(finite):
        first = int((~np.isfinite(x.ravel().astype(np.float32))).argmax())
        info = next(iter(tensor.arrays.values()))
        problem = f"weights must be finite to be scored, not {float(x.ravel()[first])}"
        raise FormatError(
            f"{problem} at flat index {block.row * block.cols + first}", path=info.path, tensor=tensor.name
        )
    return np.array([x.size, *norms.sum(axis=1, dtype=np.float64)])
