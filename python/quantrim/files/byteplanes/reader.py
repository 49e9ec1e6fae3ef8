"""Safetensors files, and those of byte planes as the files that they stand for."""

from __future__ import annotations

from pathlib import Path

from ..base import Reader
from ..safetensors.reader import SafetensorsReader
from .container import KEY, Original


def open_file(path: Path) -> Reader:
    """Open a safetensors file; one of byte planes as the file that it stands for."""
    reader = SafetensorsReader(path)
    if KEY not in reader.metadata:
        return reader
    try:
        return Original(reader)
    except BaseException:
        reader.close()
        raise


def header_of(reader: Reader) -> bytes:
    """Return the first bytes, up to the tensors, of the safetensors file that a reader reads or stands for; empty for
    another format."""
    return reader.header() if isinstance(reader, (SafetensorsReader, Original)) else b""
