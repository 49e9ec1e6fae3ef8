"""What every file format is to the rest: a Reader, a Writer, and a row of FORMATS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from .disk.descriptors import Buffer
from .disk.errors import quote
from .disk.writer import FileWriter
from .tensor_info import Entry, TensorInfo


class Reader(Protocol):
    """One file of weights, opened: what is in it now, bytes on demand. Threads may read at once."""

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """By name, in the order of the file."""

    @property
    def metadata(self) -> dict[str, str]: ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of this file: what was refused, skipped, transposed."""

    def read_into(self, tensor: TensorInfo, view: memoryview, start: int) -> None:
        """Fill `view` with the bytes of a tensor from `start` on: C order, little endian.

        FormatError, with path, tensor and offset, where they are not what the file says.
        """

    def storage_of(self, name: str) -> tuple[str, int]:
        """Say how the file keeps a tensor, for people, and in how many bytes."""

    def check_unchanged(self) -> None:
        """Raise FormatError if the file was changed, replaced or removed since it was opened."""

    def close(self) -> None: ...


class Writer(Protocol):
    """One file that is being written: tensors of known names, dtypes and shapes, their bytes in any order.

    size: of the whole file, in bytes. Made from entries and metadata, without a file; ValueError for what the format
    cannot hold. Writers name this class as their base for the methods that are written here.
    """

    size: int

    def attach(self, out: FileWriter) -> None:
        """Begin to write to a file, one that is open and of `size`."""

    def write(self, name: str, data: Buffer, offset: int) -> None:
        """Write `data` at byte `offset` of a tensor: C order, little endian, every byte once. Threads may write at
        once."""

    def write_each(self, names: Sequence[str], data: memoryview) -> None:
        """Write all of several tensors, which `data` holds one after the other in as many equal pieces."""
        size = len(data) // len(names)
        for k, name in enumerate(names):
            self.write(name, data[k * size : (k + 1) * size], 0)

    def finish(self) -> None:
        """Write what needs all bytes: checksums, directories. ValueError where a tensor is not whole."""

    def close(self) -> None:
        """Let go of what the writer holds beside the file it is attached to, whether that was finished or not."""


MakeWriter = Callable[[Iterable[Entry], Mapping[str, str]], Writer]


@dataclass(frozen=True)
class Format:
    """A file format. weights: of a model folder, the file of weights; its index, if there are shards, is named
    `<weights>.index.json`. writer: of (entries, metadata); None where quantrim does not write it. editor: of (entries,
    metadata, source): a copy of a file of the format with other values in it."""

    name: str
    suffixes: tuple[str, ...]
    reader: Callable[[Path], Reader]
    writer: MakeWriter | None = None
    weights: str | None = None
    editor: Callable[[Iterable[Entry], Mapping[str, str], Path], Writer] | None = None


def _imported(module: str, name: str) -> Callable[..., Any]:
    """Return a function that imports what it calls when it is called."""

    def call(*args: Any) -> Any:
        return getattr(import_module(module, __package__), name)(*args)

    return call


FORMATS = {
    row.name: row
    for row in (
        Format(
            "safetensors",
            (".safetensors",),
            _imported(".byteplanes.reader", "open_file"),
            _imported(".safetensors.writer", "SafetensorsWriter"),
            weights="model.safetensors",
        ),
        Format(
            "npz",
            (".npz",),
            _imported(".npz.reader", "NpzReader"),
            _imported(".npz.writer", "NpzWriter"),
        ),
        Format(
            "npy",
            (".npy",),
            _imported(".npz.reader", "NpyReader"),
            _imported(".npz.writer", "NpyWriter"),
        ),
        Format(
            "torch",
            (".pt", ".pth", ".bin", ".ckpt"),
            _imported(".torch.reader", "TorchReader"),
            weights="pytorch_model.bin",
        ),
        Format(
            "keras",
            (".keras", ".h5", ".hdf5"),
            _imported(".keras.reader", "KerasReader"),
            editor=_imported(".keras.writer", "KerasWriter"),
        ),
    )
}


def format_of(path: Path) -> Format | None:
    """Return the format that the suffix of a path names, None for another suffix or none."""
    return next((row for row in FORMATS.values() if path.suffix.lower() in row.suffixes), None)


def writer_for(path: Path, source: Path | None = None) -> MakeWriter:
    """Return what makes the writer of a file from (entries, metadata). ValueError for a suffix of no format that
    quantrim writes.

    source: a file; where its format can be edited, one of the same suffix can be written: a copy with other values.
    """
    found = format_of(path)
    if found is not None and found.writer is not None:
        return found.writer
    suffixes = [suffix for row in FORMATS.values() if row.writer for suffix in row.suffixes]
    of_source = None if source is None else format_of(source)
    if source is not None and of_source is not None and of_source.editor is not None:
        if path.suffix.lower() == source.suffix.lower():
            editor = of_source.editor
            return lambda entries, metadata: editor(entries, metadata, source)
        suffixes.append(f"{source.suffix.lower()} as the source")
    raise ValueError(f"destination must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}, not {quote(path)}")
