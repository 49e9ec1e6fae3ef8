"""What is written beside and around tensors: copies of files, JSON, and targets that watch their source."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ...files import AtomicFile, AtomicFolder, Checkpoint, Writer, refuse_another_run, refuse_same_file
from ...files.disk.errors import PATH_LIMIT, quote
from ...files.disk.source_file import SourceFile
from ...files.disk.writer import FileWriter
from ..plan.output_files import maker_of
from ..plan.types import OutputFile
from .index import index_name

T = TypeVar("T")
COPY_BYTES = 8 << 20  # of a tensor or a file that is copied, at a time


class CheckedFile(AtomicFile):
    """A single target, kept only if the source was the same all the while."""

    def __init__(self, checkpoint: Checkpoint, path: Path, size: int | None = None) -> None:
        super().__init__(path, size, alone=True)
        self._checkpoint = checkpoint

    def _finish(self) -> None:
        self._checkpoint.check_unchanged()
        super()._finish()


@contextmanager
def written_by(writer: Writer, file: AbstractContextManager[FileWriter]) -> Iterator[Writer]:
    """Open a file for the tensors that a writer writes, which finishes it where the block ends well."""
    with closing(writer), file as out:
        writer.attach(out)
        yield writer
        writer.finish()


@contextmanager
def open_output(
    checkpoint: Checkpoint, target: Path, overwrite: bool, config: dict[str, Any] | None, index: dict[str, Any] | None
) -> Iterator[Callable[[OutputFile[T]], AbstractContextManager[Writer]]]:
    """Open the target, one file or a folder; the block gets what opens each file of it.

    The other files of a folder are written when all of these are. config: config.json, where it is another than the
    source's; index: over the files, where there is one."""
    if not checkpoint.is_folder:
        yield lambda file: written_by(file.writer, CheckedFile(checkpoint, target, file.size))
        return
    with AtomicFolder(target, overwrite) as folder:
        yield lambda file: written_by(file.writer, folder.file(file.name, file.size))
        copy_side_files(checkpoint, folder, None if config is None else {"config.json": config})
        if index is not None:
            write_json(folder, index_name(checkpoint), index)


def files_read(checkpoint: Checkpoint, source: str | os.PathLike[str]) -> list[Path]:
    """What no target may replace: the source, its shards, and what links in it lead to."""
    folder = Path(os.path.realpath(checkpoint.folder))
    others = [checkpoint.folder / name for name in checkpoint.side_files]
    linked = [path for path in others if folder not in Path(os.path.realpath(path)).parents]
    return [Path(source), *(checkpoint.folder / shard for shard in checkpoint.shards), *linked]


def check_target(checkpoint: Checkpoint, source: str | os.PathLike[str], target: Path, overwrite: bool) -> None:
    """ValueError for a target that is part of the source, of no format that can be written, or, being a file, there
    already; OSError for one that another run is writing: before the weights are looked at, which may take long."""
    refuse_same_file(files_read(checkpoint, source), target)
    maker_of(checkpoint, target)
    if not checkpoint.is_folder and not overwrite and os.path.lexists(target):
        raise ValueError(f"destination {quote(target, PATH_LIMIT)} must be absent unless overwrite=True; it exists")
    refuse_another_run(target)


def copy_tensor(
    checkpoint: Checkpoint, name: str, out: FileWriter, offset: int, advance: Callable[[int], object]
) -> None:
    """The bytes of a tensor, to `offset` of a file. advance: called with the number of each piece."""
    nbytes = checkpoint.tensors[name].nbytes
    buffer = bytearray(min(nbytes, COPY_BYTES))
    for first in range(0, nbytes, COPY_BYTES):
        piece = memoryview(buffer)[: min(COPY_BYTES, nbytes - first)]
        checkpoint.read_into(name, piece, first)
        out.pwrite(piece, offset + first)
        advance(len(piece))


def copy_side_files(checkpoint: Checkpoint, folder: AtomicFolder, rewritten: Mapping[str, Any] | None = None) -> None:
    """config.json, tokenizer, licence, subfolders, as they are; rewritten: what some of them hold instead, as JSON."""
    for name in checkpoint.side_files:
        if rewritten and name in rewritten:
            write_json(folder, name, rewritten[name])
            continue
        copy_file(checkpoint.folder, name, folder)


def copy_file(source: Path, name: str, folder: AtomicFolder) -> str:
    """A file from one folder into another, under the same name. Returns the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    file = SourceFile(source / name)
    try:
        with folder.file(name, file.size) as out:
            for first in range(0, file.size, COPY_BYTES):
                piece = file.read(min(COPY_BYTES, file.size - first), first)
                digest.update(piece)
                out.write(piece)
    finally:
        file.close()
    return digest.hexdigest()


def write_json(folder: AtomicFolder, name: str, value: Any) -> None:
    with folder.file(name) as out:
        out.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
