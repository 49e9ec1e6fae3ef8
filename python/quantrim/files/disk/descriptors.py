"""File descriptors: opened with care, and never numbers 0 to 2."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np

from .errors import PATH_LIMIT, FormatError, quote

CHUNK = 16 << 20  # bytes per system call: a signal is seen between two of them

Buffer = bytes | bytearray | memoryview | np.ndarray[Any, Any]

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISLNK, "a symbolic link"),
)


def kind_of(mode: int) -> str:
    """Say what a file of this st_mode is, for messages."""
    return next((name for test, name in _KINDS if test(mode)), "a regular file")


def byte_view(data: Buffer, argument: str, *, writable: bool = False) -> memoryview:
    """Return the bytes of a C-contiguous buffer or array, without a copy."""
    if isinstance(data, np.ndarray):
        # through numpy, because a memoryview cannot hold the dtypes of ml_dtypes
        if not data.flags.c_contiguous:
            raise ValueError(f"{argument} must be C-contiguous, not strides {data.strides}")
        view = data.reshape(-1).view(np.uint8).data
    else:
        view = memoryview(data)
        if not view.c_contiguous:
            raise ValueError(f"{argument} must be C-contiguous, not strides {view.strides}")
    if writable and view.readonly:
        raise ValueError(f"{argument} must be writable, not read-only")
    return view.cast("B") if view.nbytes else memoryview(bytearray())


def open_above_stdio(path: str | os.PathLike[str], flags: int, mode: int = 0o666, dir_fd: int | None = None) -> int:
    """Call os.open, but never return descriptor 0, 1 or 2: where a caller has closed those, a stray print would land in
    the file."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    if fd > 2:
        return fd
    try:
        return duplicate(fd)
    finally:
        os.close(fd)


def duplicate(fd: int) -> int:
    """Call os.dup, but never return descriptor 0, 1 or 2."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def open_regular(path: Path) -> int:
    """Open a regular file for reading. FormatError for a directory, FIFO, device or socket, at once: opening a FIFO
    would wait for its writer."""
    _refuse_irregular(path.stat().st_mode, path)
    fd = open_above_stdio(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _refuse_irregular(os.fstat(fd).st_mode, path)  # it may have been swapped since
    except BaseException:
        os.close(fd)
        raise
    return fd


def _refuse_irregular(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        raise FormatError(f"must be a regular file, not {kind_of(mode)}", path=path)


def named_path(path: str | os.PathLike[str], argument: str) -> Path:
    """Return a path argument as a Path. TypeError for what is no path, ValueError for an empty one or a NUL."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"{argument} must be a str or a path, not {type(path).__name__}")
    text = os.fspath(path)
    if not text or "\0" in text:
        raise ValueError(f"{argument} must be a path, not {quote(text, PATH_LIMIT)}")
    return Path(text)
