"""A checkpoint in, the same one as byte planes out, and back: streamed, on all threads, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import backend
from ...files import AtomicFolder, Checkpoint, FormatError, Reader, TensorInfo, open_checkpoint
from ...files.byteplanes import container
from ...files.byteplanes.container import LISTING, Original, original_of
from ...files.byteplanes.planes import Coder, Coders, checksum, is_kept
from ...files.byteplanes.reader import header_of
from ...files.disk.descriptors import named_path
from ...files.disk.errors import PATH_LIMIT, quote
from ...files.disk.strict_json import parse
from ...files.disk.writer import FileWriter
from ...files.folder import read_json
from ..encode.targets import CheckedFile, check_target, copy_file, write_json
from ..plan.notes import named_sizes
from ..report.figures import TensorReport
from ..report.provenance import peak_memory, versions
from ..report.report import Report
from ..streaming.workers import Workers

CHUNK_BYTES = 1 << 20  # of a tensor: the unit of work of a thread, and of what a reader must decode for one value

Progress = Callable[[int, int, str], object]  # bytes of the original done, of how many, the tensor at work
Open = Callable[[str, "int | None"], Any]  # what opens a target by the name of its shard and its size


def compress_lossless(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a smaller copy of a checkpoint from which `restore` makes the original again, byte for byte.

    Every tensor, of any dtype, is cut into chunks of 1 MiB and these into byte planes, which
    zstandard compresses; tensors that do not shrink stay as they are. quantrim reads the result like the original:
    `compress`, `compare`, `inspect`, `split`, `merge`, `open_checkpoint`. `restore` it for other programs.

    source: a .safetensors file, or a model folder. All other files of a folder come along as they are: config,
    tokenizer, index, subfolders, weights in other formats. What is left out, folders such as .git and what is no file,
    is named in the notes. Links are followed: what they lead to comes back in their place. destination: a file or
    folder like the source; it appears whole or not at all, and replaces another only with overwrite=True.
    progress: called with (bytes done, bytes in all, tensor) in this thread; what it raises ends the work.

    Memory: some 4 MB for each thread, whatever the size of the model. The bytes written do not depend on the number of
    threads; they may differ between versions of zstandard. ValueError where that is not installed.

    >>> import tempfile
    >>> from quantrim.demo import digits
    >>> with digits.model_file() as source, tempfile.TemporaryDirectory() as folder:
    ...     report = compress_lossless(source, f"{folder}/small.safetensors")
    ...     _ = restore(f"{folder}/small.safetensors", f"{folder}/again.safetensors")
    ...     Path(f"{folder}/again.safetensors").read_bytes() == source.read_bytes(), report.ratio > 1.05
    (True, True)
    """
    started = time.perf_counter()
    target = named_path(destination, "destination")
    Coder()  # a ValueError before any work where zstandard is missing
    rows: list[TensorReport] = []
    sizes = [0, 0]
    with open_checkpoint(source) as checkpoint:
        _check_target(checkpoint, source, target, overwrite)
        if any(map(original_of, checkpoint.readers.values())):
            raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)} is byte planes already")
        for shard, reader in checkpoint.readers.items():
            if not header_of(reader):
                raise ValueError(f"{quote(reader.path, PATH_LIMIT)} must be a safetensors file to become byte planes")
            container.check_names(checkpoint.readers[shard].tensors, checkpoint.folder / shard)
        others = _carried(checkpoint)
        advance = _counter(checkpoint, progress)
        with _targets(checkpoint, target, overwrite) as (open_target, folder):
            for shard in checkpoint.shards:
                path = checkpoint.folder / shard
                with open_target(shard, None) as out, Workers(backend.current_threads()) as workers:
                    sizes[1] += _write(checkpoint.readers[shard], out, workers, advance, rows)
                sizes[0] += path.stat().st_size
            if folder is not None:
                copied = {name: copy_file(checkpoint.folder, name, folder) for name in others}
                write_json(folder, LISTING, {"version": container.VERSION, "files": copied})
        notes = _notes(checkpoint)
    return Report(
        source=os.fspath(source),
        destination=os.fspath(target),
        recipe={"lossless": True},
        tensors=tuple(rows),
        source_bytes=sizes[0],
        stored_bytes=sizes[1],
        seconds=time.perf_counter() - started,
        threads=backend.current_threads(),
        notes=notes,
        settings={"lossless": True},
        versions=versions() | {"zstandard": packages.version("zstandard")},
        peak_memory=peak_memory(),
    )


@dataclass(frozen=True)
class Restored:
    """The outcome of `restore`. files: name -> SHA-256. stored_bytes, nbytes: the files of weights before and after."""

    source: str
    destination: str
    files: dict[str, str]
    stored_bytes: int
    nbytes: int
    seconds: float
    threads: int


def restore(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Restored:
    """Write the original of what `compress_lossless` wrote: the same bytes, header and all.

    source: its file or folder. destination: like the source; it appears whole or not at all, and replaces another only
    with overwrite=True. FormatError, and nothing written, where a checksum says that a byte is not what it was: of a
    chunk (CRC-32, with tensor and offset) or of a whole file (SHA-256); OSError where the disk cannot hold it.
    progress: as in `compress_lossless`.
    """
    started = time.perf_counter()
    target = named_path(destination, "destination")
    files: dict[str, str] = {}
    with open_checkpoint(source) as checkpoint:
        originals = {shard: original_of(reader) for shard, reader in checkpoint.readers.items()}
        for shard, original in originals.items():
            if original is None:
                problem = "must be a file that compress_lossless wrote, and has no originals to restore"
                raise FormatError(problem, path=checkpoint.folder / shard)
        _check_target(checkpoint, source, target, overwrite)
        listed = _listed(checkpoint) if checkpoint.is_folder else {}
        advance = _counter(checkpoint, progress)
        with _targets(checkpoint, target, overwrite) as (open_target, folder):
            for shard, original in originals.items():
                assert original is not None
                with open_target(shard, original.size) as out, Workers(backend.current_threads()) as workers:
                    files[shard] = _restore(original, out, workers, advance)
            if folder is not None:
                for name, digest in listed.items():
                    files[name] = copy_file(checkpoint.folder, name, folder)
                    _check_digest(checkpoint.folder / name, files[name], digest)
        before = checkpoint.file_bytes
        nbytes = sum(original.size for original in originals.values() if original)
    seconds = time.perf_counter() - started
    return Restored(os.fspath(source), os.fspath(target), files, before, nbytes, seconds, backend.current_threads())


def _check_target(checkpoint: Checkpoint, source: str | os.PathLike[str], target: Path, overwrite: bool) -> None:
    if not checkpoint.is_folder and target.suffix != ".safetensors":
        raise ValueError(f"destination {quote(target, PATH_LIMIT)} must be a .safetensors file, as the source is")
    check_target(checkpoint, source, target, overwrite)


@contextmanager
def _targets(checkpoint: Checkpoint, target: Path, overwrite: bool) -> Iterator[tuple[Open, AtomicFolder | None]]:
    """Open the targets and their folder, which are kept only if the source was the same all the while."""
    if not checkpoint.is_folder:
        yield lambda _, size: CheckedFile(checkpoint, target, size), None
        return
    with AtomicFolder(target, overwrite) as folder:
        yield folder.file, folder
        checkpoint.check_unchanged()


def _counter(checkpoint: Checkpoint, progress: Progress | None) -> Callable[[int, str], None]:
    done = 0
    total = sum(t.nbytes for reader in checkpoint.readers.values() for t in reader.tensors.values())

    def advance(nbytes: int, name: str) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total, name)

    return advance


def _carried(checkpoint: Checkpoint) -> list[str]:
    """List the files of a folder that are copied as they are. ValueError for a name that the list cannot hold."""
    index = [] if checkpoint.index is None else [checkpoint.index.name]
    names = [*checkpoint.side_files, *checkpoint.beside.others, *index]
    for name in names:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(f"names of files must be UTF-8 to be listed, not {quote(checkpoint.folder / name)}")
    return names


# To planes


@dataclass(frozen=True)
class _Chunk:
    """A chunk of the original, and its compressed planes. numbers: its checksum and the bytes of its planes."""

    data: NDArray[np.uint8]
    numbers: list[int]
    planes: list[Any]

    @property
    def kept(self) -> bool:
        return is_kept(self.numbers[1:], self.data.size)


def _write(
    reader: Reader,
    out: FileWriter,
    workers: Workers,
    advance: Callable[[int, str], None],
    rows: list[TensorReport],
) -> int:
    """Write the lossless file of a shard; returns its bytes, and appends what became of each tensor to `rows`."""
    head, tensors, metadata = header_of(reader), reader.tensors, reader.metadata
    digest, frame = hashlib.sha256(head), Coder().compress(head)
    count = sum(container.numbers_of(t, CHUNK_BYTES) for t in tensors.values())
    said = {"size": reader.path.stat().st_size, "header_bytes": len(head), "chunk_bytes": CHUNK_BYTES}
    first: container.Entry = (container.HEADER, "U8", [len(frame)], len(frame))
    last: container.Entry = (container.TABLE, "U32", [count], 4 * count)
    room = container.room_for(
        tensors.values(),
        [first, last],
        container.metadata_of(metadata, **said, sha256=digest.hexdigest()),
        len(frame) + 4 * count + sum(t.nbytes for t in tensors.values()),
    )
    out.pwrite(frame, 8 + room)
    entries: list[container.Entry] = [first]
    numbers: list[int] = []
    end = 8 + room + len(frame)
    chunks = workers.run(_encode_jobs(reader, tensors.values()))
    for tensor in tensors.values():
        begin, shrank = end, False
        for _ in container.pieces(tensor.nbytes, CHUNK_BYTES):
            chunk = next(chunks)
            digest.update(chunk.data.data)
            for piece in chunk.planes:
                out.pwrite(piece, end)
                end += len(piece)
            numbers += chunk.numbers
            shrank |= not chunk.kept
            advance(chunk.data.size, tensor.name)
        entries.append(container.planes_entry(tensor, end - begin) if shrank else container.kept_entry(tensor))
        label, why = (f"{tensor.dtype} as byte planes", "") if shrank else (tensor.dtype, "does not shrink")
        rows.append(TensorReport(tensor.name, tensor.shape, tensor.nbytes, end - begin, label, why))
    out.pwrite(np.array(numbers, "<u4"), end)
    metadata = container.metadata_of(metadata, **said, sha256=digest.hexdigest())
    out.pwrite(container.encode_head([*entries, last], metadata, room), 0)
    return end + 4 * count


def _encode_jobs(reader: Reader, tensors: Iterable[TensorInfo]) -> Iterator[Callable[[], _Chunk]]:
    coders = Coders()
    for tensor in tensors:
        for first, nbytes in container.pieces(tensor.nbytes, CHUNK_BYTES):
            yield partial(_encode, reader, coders, tensor, first, nbytes)


def _encode(reader: Reader, coders: Coders, tensor: TensorInfo, first: int, nbytes: int) -> _Chunk:
    data = np.empty(nbytes, np.uint8)
    reader.read_into(tensor, data.data, first)
    sizes, planes = coders.coder.encode(data, tensor.numpy_dtype)
    return _Chunk(data, [checksum(data), *sizes], planes)


def _notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    beside = checkpoint.beside
    notes = []
    if beside.others or beside.weights:
        notes.append(f"copied as they are: {named_sizes(beside.others | beside.weights)}")
    left = [quote(name) for name in beside.skipped] + [f"{quote(name)} ({is_})" for name, is_ in beside.odd.items()]
    if left:
        notes.append(f"left out: {', '.join(sorted(left))}")
    return tuple(notes)


# And back


def _restore(
    original: Original,
    out: FileWriter,
    workers: Workers,
    advance: Callable[[int, str], None],
) -> str:
    """Write the original file; returns its SHA-256."""
    digest = hashlib.sha256(original.header())
    out.pwrite(original.header(), 0)
    end = len(original.header())

    def job(tensor: TensorInfo, first: int, nbytes: int) -> tuple[str, NDArray[np.uint8]]:
        data = np.empty(nbytes, np.uint8)
        original.read_into(tensor, data.data, first)
        return tensor.name, data

    tensors = original.tensors.values()
    jobs = (partial(job, t, *piece) for t in tensors for piece in container.pieces(t.nbytes, original.chunk_bytes))
    for name, data in workers.run(jobs):
        digest.update(data.data)
        out.pwrite(data, end)
        end += data.size
        advance(data.size, name)
    _check_digest(original.path, digest.hexdigest(), original.sha256)
    return digest.hexdigest()


def _check_digest(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise FormatError(f"SHA-256 mismatch: expected {expected}, found {found}", path=path)


def _listed(checkpoint: Checkpoint) -> dict[str, str]:
    """Read the list of other files of a folder, name -> SHA-256. FormatError where they are not all there."""
    path = checkpoint.folder / LISTING
    listing = parse(read_json(path, "the list of files"), path, "the list of files")
    files = listing.get("files") if isinstance(listing, dict) else None
    if not isinstance(files, dict) or listing.get("version") != container.VERSION:
        raise FormatError(f"must be an object with version {container.VERSION} and files", path=path)
    known = set(_carried(checkpoint))
    for name, digest in files.items():
        if name not in known or not isinstance(digest, str):
            raise FormatError(f"file {quote(name)} of the list is missing from the folder", path=path)
    return files
