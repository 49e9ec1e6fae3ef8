"""Tensors out of one safetensors file."""

from __future__ import annotations

from pathlib import Path

from ..disk.source_file import SourceFile
from ..tensor_info import TensorInfo
from .header import parse_header, raw_header


class SafetensorsReader:
    """A safetensors file, opened. FormatError for everything that breaks a rule of the format."""

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = SourceFile(path)
        try:
            self.tensors, self.metadata = parse_header(self.header()[8:], self.file.size, path)
        except BaseException:
            self.file.close()
            raise

    def header(self) -> bytes:
        """Return the first bytes of the file, up to the tensors."""
        return bytes(raw_header(self.file))

    def read_into(self, tensor: TensorInfo, view: memoryview, start: int) -> None:
        self.file.read_into(view, tensor.offset + start, tensor.name)

    def storage_of(self, name: str) -> tuple[str, int]:
        return self.tensors[name].dtype, self.tensors[name].nbytes

    def check_unchanged(self) -> None:
        self.file.check_unchanged()

    def close(self) -> None:
        self.file.close()
