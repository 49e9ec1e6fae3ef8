"""compress as a writer to be killed, for the server of `files_helpers`: run as a script with `serve`.

The target's directory holds the sources: `source.safetensors` and the folder `source`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from files_helpers import WRITERS, Server, serve

import quantrim as qt
from quantrim.model import compress, decompress
from quantrim.model.edit import lossless
from quantrim.model.streaming import chunks

OPTIONS: dict[str, Any] = {"bits": 3, "group_size": 16, "symmetric": False, "prune": 0.4}


def compress_file(target: Path) -> None:
    _compress(target.parent / "source.safetensors", target)


def compress_folder(target: Path) -> None:
    _compress(target.parent / "source", target)


def compress_sparse(target: Path) -> None:
    _compress(target.parent / "source.safetensors", target, {"bits": 3, "prune": 0.8, "storage": "sparse"})


def compress_in_place(target: Path) -> None:
    """A planted bug: the target is opened and written as it is."""
    whole = target.parent / "whole.safetensors"
    if not whole.exists():
        compress_file(whole)
    data = whole.read_bytes()
    with target.open("wb", buffering=0) as file:
        for begin in range(0, len(data), 400):
            os.pwrite(file.fileno(), data[begin : begin + 400], begin)


def lossless_folder(target: Path) -> None:
    lossless.CHUNK_BYTES = 1 << 13
    with qt.use_threads(2):
        lossless.compress_lossless(target.parent / "source", target, overwrite=True)


def restore_folder(target: Path) -> None:
    with qt.use_threads(2):
        lossless.restore(target.parent / "planes", target, overwrite=True)


def decompress_folder(target: Path) -> None:
    chunks.CHUNK_BYTES = 1 << 13
    with qt.use_threads(2):
        decompress(target.parent / "small", target, overwrite=True)


def _compress(source: Path, target: Path, options: dict[str, Any] = OPTIONS) -> None:
    chunks.CHUNK_BYTES = 1 << 14
    with qt.use_threads(2):
        compress(source, target, overwrite=True, **options)


for writer in (
    *(compress_file, compress_folder, compress_sparse, compress_in_place),
    *(lossless_folder, restore_folder, decompress_folder),
):
    WRITERS[writer.__name__] = writer


class CompressServer(Server):
    """The server of `files_helpers`, with these writers."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "serve"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"


if __name__ == "__main__" and sys.argv[1:] == ["serve"]:
    serve()
