"""A checkpoint cut into files, and put together again, byte for byte; tensors of it left out."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ... import checks
from ...files import AtomicFolder, Checkpoint, TensorInfo, open_checkpoint, refuse_same_file
from ...files.base import format_of
from ...files.disk.descriptors import named_path
from ...files.disk.errors import PATH_LIMIT, quote
from ...files.disk.writer import FileWriter
from ...files.folder import INDEX_SUFFIX
from ...float_environment import default_floats
from ..encode.index import index_of, whole_header
from ..encode.targets import CheckedFile, copy_side_files, copy_tensor, files_read, write_json
from ..plan.notes import side_file_notes
from ..plan.output_files import oversize_notes
from .layers import (
    Progress,
    Shard,
    WeightShare,
    encoded_header,
    layers_of,
    plan_shards,
    scores,
    shard_of,
)

INDEX = f"model{INDEX_SUFFIX}"


@dataclass(frozen=True)
class Written:
    """The outcome of `split_checkpoint` or `merge_checkpoint`, or its plan. dropped: names of tensors left out;
    lowest: the layers among them that were chosen by their weight; notes: what people should know of it."""

    source: str
    destination: str
    shards: tuple[Shard, ...]
    dropped: tuple[str, ...] = ()
    lowest: tuple[WeightShare, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(shard.size for shard in self.shards)


@default_floats
def split_checkpoint(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    max_size: int | None = None,
    layers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Cut a checkpoint into files of at most `max_size` bytes, or of `layers` layers each, with an index over them.

    source: a file of weights or a model folder, whose other files (config, tokenizer, subfolders) are copied; what is
    not copied is in the notes. destination: a folder of safetensors, absent or empty unless overwrite=True; it appears
    whole or not at all. Tensors stay whole, byte for byte; one larger than max_size has a file of its own. The index
    keeps the header of a source in one file, where the library would have written another, so that `merge_checkpoint`
    restores it.
    progress: called with (bytes done, bytes in all, tensor); what it raises ends the work.

    >>> import tempfile
    >>> from quantrim.demo import digits
    >>> with digits.model_file() as source, tempfile.TemporaryDirectory() as folder:
    ...     written = split_checkpoint(source, f"{folder}/shards", layers=1)
    >>> [(shard.name, len(shard.tensors)) for shard in written.shards][0]
    ('model-00001-of-00003.safetensors', 2)
    """
    target = named_path(destination, "destination")
    with open_checkpoint(source) as checkpoint:
        plan = plan_split(checkpoint, target, max_size, layers)
        check_folder(checkpoint, source, target)
        _write_folder(checkpoint, plan.shards, target, overwrite, progress)
    return replace(plan, source=os.fspath(source))


@default_floats
def merge_checkpoint(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    drop: str | Iterable[str] = (),
    drop_lowest: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Put the files of a checkpoint together into one, and leave tensors out where asked to.

    A file that `split_checkpoint` cut comes back the same, byte for byte, whoever wrote it. Files of a folder that had
    several to begin with, and those of other formats, become one as the library of safetensors would write it; their
    tensors are the same bytes.

    source: a model folder, or a file. destination: a .safetensors file, or a folder that also gets the other files of
    the source; it appears whole or not at all, and replaces another only with overwrite=True.
    drop: globs of tensor names to leave out; one that matches nothing is an error. drop_lowest: so many layers go,
    those with the smallest sum of |w|, the first among equals; tensors of no layer stay. Names and config.json stay as
    they are: a model with fewer layers needs its own.

    >>> import tempfile
    >>> from quantrim.demo import digits
    >>> with digits.model_file() as source, tempfile.TemporaryDirectory() as folder:
    ...     _ = split_checkpoint(source, f"{folder}/shards", max_size=150_000)
    ...     _ = merge_checkpoint(f"{folder}/shards", f"{folder}/whole.safetensors")
    ...     Path(f"{folder}/whole.safetensors").read_bytes() == source.read_bytes()
    True
    """
    target = named_path(destination, "destination")
    with open_checkpoint(source) as checkpoint:
        plan = plan_merge(checkpoint, target, drop, drop_lowest, progress)
        (shard,) = plan.shards
        if target.suffix == ".safetensors":
            check_file(checkpoint, source, target, overwrite)
            with CheckedFile(checkpoint, target, shard.size) as out:
                _write(checkpoint, shard, out, _Counter([shard], progress))
        else:
            check_folder(checkpoint, source, target)
            _write_folder(checkpoint, [shard], target, overwrite, progress)
    return plan


def plan_split(checkpoint: Checkpoint, target: Path, max_size: int | None = None, layers: int | None = None) -> Written:
    """Plan what `split_checkpoint` would write."""
    shards = plan_shards(checkpoint, max_size, layers)
    sizes = [(shard.tensors[0].name, shard.size) for shard in shards if len(shard.tensors) == 1]
    notes = (*side_file_notes(checkpoint), *checkpoint.notes, *oversize_notes(sizes, max_size, "max_size"))
    return Written(os.fspath(checkpoint.path), os.fspath(target), tuple(shards), notes=notes)


@default_floats
def plan_merge(
    checkpoint: Checkpoint, target: Path, drop: str | Iterable[str], drop_lowest: int, progress: Progress | None = None
) -> Written:
    """Plan what `merge_checkpoint` would write."""
    most = max(len(set(layers_of(checkpoint.tensors).values()) - {None}) - 1, 0)
    lowest: list[WeightShare] = []
    if checks.integer("drop_lowest", drop_lowest, 0, most):
        lowest = sorted(layer_scores(checkpoint, progress), key=lambda score: score.l1)[:drop_lowest]
    kept = _kept(checkpoint, drop, {score.name for score in lowest})
    names = {t.name for t in kept}
    dropped = tuple(name for name in checkpoint.tensors if name not in names)
    file = target.suffix == ".safetensors"
    shard = shard_of(checkpoint, target.name if file else "model.safetensors", kept)
    notes = (*(() if file else side_file_notes(checkpoint)), *checkpoint.notes)
    return Written(os.fspath(checkpoint.path), os.fspath(target), (shard,), dropped, tuple(lowest), notes)


@default_floats
def shard_scores(
    checkpoint: Checkpoint, shards: Sequence[Shard], progress: Progress | None = None
) -> list[WeightShare]:
    """Compute each file's share of the L1 norm, for a plan."""
    return scores(checkpoint, {t.name: shard.name for shard in shards for t in shard.tensors}, progress)


@default_floats
def layer_scores(checkpoint: Checkpoint, progress: Progress | None = None) -> list[WeightShare]:
    """Compute each layer's share of the L1 norm, in the order of the checkpoint."""
    layers = {name: layer for name, layer in layers_of(checkpoint.tensors).items() if layer is not None}
    return scores(checkpoint, layers, progress)


def check_folder(checkpoint: Checkpoint, source: str | os.PathLike[str], target: Path) -> None:
    refuse_same_file(files_read(checkpoint, source), target)
    if format_of(target) is not None:
        raise ValueError(f"destination {quote(target, PATH_LIMIT)} must be a folder, not a {target.suffix} file")


def check_file(checkpoint: Checkpoint, source: str | os.PathLike[str], target: Path, overwrite: bool) -> None:
    refuse_same_file(files_read(checkpoint, source), target)
    if not overwrite and os.path.lexists(target):
        raise ValueError(f"destination {quote(target, PATH_LIMIT)} must be absent unless overwrite=True; it exists")


def _kept(checkpoint: Checkpoint, drop: str | Iterable[str], layers: set[str]) -> list[TensorInfo]:
    globs = [drop] if isinstance(drop, str) else list(drop)
    layer = layers_of(checkpoint.tensors)
    gone = {name for name in checkpoint.tensors if layer[name] in layers}
    for glob in globs:
        if not isinstance(glob, str):
            raise TypeError(f"drop must be a glob or a list of globs, not {quote(glob)}")
        pattern = re.compile(fnmatch.translate(glob))
        matched = {name for name in checkpoint.tensors if pattern.match(name)}
        if not matched:
            raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)}: drop {quote(glob)} matched 0 tensors")
        gone |= matched
    kept = [t for name, t in checkpoint.tensors.items() if name not in gone]
    if gone and not kept:
        raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)}: drop must leave a tensor, not none")
    return kept


class _Counter:
    """Bytes done, for whoever wants to know."""

    def __init__(self, shards: Sequence[Shard], progress: Progress | None) -> None:
        self._progress, self._done = progress, 0
        self._total = sum(shard.nbytes for shard in shards)

    def add(self, nbytes: int, name: str) -> None:
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self._total, name)


def _write(checkpoint: Checkpoint, shard: Shard, out: FileWriter, counter: _Counter) -> None:
    out.pwrite(shard.header, 0)
    for name, begin in shard.offsets.items():
        copy_tensor(checkpoint, name, out, begin, lambda nbytes, name=name: counter.add(nbytes, name))  # type: ignore[misc]


def _write_folder(
    checkpoint: Checkpoint, shards: Sequence[Shard], target: Path, overwrite: bool, progress: Progress | None
) -> None:
    counter = _Counter(shards, progress)
    with AtomicFolder(target, overwrite) as folder:
        for shard in shards:
            with folder.file(shard.name, shard.size) as out:
                _write(checkpoint, shard, out, counter)
        copy_side_files(checkpoint, folder)
        if len(shards) > 1:
            names = {t.name: shard.name for shard in shards for t in shard.tensors}
            total = sum(shard.nbytes for shard in shards)
            left = checkpoint.tensors.values()
            write_json(folder, INDEX, index_of(checkpoint, names, total, left, _unusual_header(checkpoint)))
        checkpoint.check_unchanged()


def _unusual_header(checkpoint: Checkpoint) -> bytes | None:
    """Return the header of the one file that a checkpoint was in, where the library would write another."""
    tensors = list(checkpoint.tensors.values())
    known = whole_header(checkpoint, tensors)
    return known[0] if known and known[0] != encoded_header(checkpoint, tensors)[0] else None
