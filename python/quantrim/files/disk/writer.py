"""Bytes into one file at known offsets: short writes, full disks and late errors are seen here."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .descriptors import CHUNK, Buffer, byte_view
from .errors import PATH_LIMIT, quote

# preallocation is a courtesy of the file system: these say that it has none
_NO_PREALLOCATION = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_RETRIES = 1000  # of a file that says EAGAIN, one each millisecond


def os_error(error: OSError, path: str | os.PathLike[str], detail: str = "") -> OSError:
    """Return the same error with the path it is about, and its subclass (PermissionError, ...) kept."""
    code = error.errno or errno.EIO
    return OSError(code, f"{error.strerror or os.strerror(code)}{detail}", os.fspath(path))


class FileWriter:
    """A file that is being written. `size`, where it is known, is reserved on the disk before the first byte
    and must be filled: every byte is to be written once, padding too. Threads may pwrite at once."""

    def __init__(self, path: Path, size: int | None = None) -> None:
        if size is not None and size < 0:
            raise ValueError(f"size must be None or a number of bytes >= 0, not {size}")
        self.path = path
        self.size = size
        self._fd = -1
        self._end = 0  # where write() goes on
        self._written = 0
        self._lock = threading.Lock()

    def pwrite(self, data: Buffer, offset: int) -> None:
        """Write all of `data` at byte `offset`. OSError with the path; for a full disk with the bytes needed
        and free."""
        view = byte_view(data, "data")
        if offset < 0 or (self.size is not None and offset + len(view) > self.size):
            wanted = f"bytes {offset} to {offset + len(view)}"
            raise ValueError(f"{quote(self.path, PATH_LIMIT)} must hold {wanted}; its size is {self.size}")
        if self._fd < 0:
            raise ValueError(f"{quote(self.path, PATH_LIMIT)} must be open for writing, inside its with block")
        done = retries = 0
        while done < len(view):
            try:
                count = os.pwrite(self._fd, view[done : done + CHUNK], offset + done)
            except OSError as error:
                retries += 1
                if isinstance(error, (BlockingIOError, InterruptedError)) and retries <= _RETRIES:
                    time.sleep(0.001)
                    continue
                raise self._error(error, offset + done, self.size or offset + len(view)) from error
            if count == 0:
                raise OSError(errno.EIO, f"nothing was written at byte {offset + done}", os.fspath(self.path))
            done += count
        with self._lock:
            self._written += done

    def write(self, data: Buffer) -> int:
        """Write after the bytes of the last write(); returns their number."""
        view = byte_view(data, "data")
        self.pwrite(view, self._end)
        self._end += len(view)
        return len(view)

    def _attach(self, fd: int) -> None:
        """Take over a descriptor, and reserve `size` bytes where the file system can."""
        self._fd = fd
        if not self.size or not hasattr(os, "posix_fallocate"):
            return
        free = _free_bytes(fd)
        try:
            os.posix_fallocate(fd, 0, self.size)
        except OSError as error:
            if error.errno not in _NO_PREALLOCATION:
                raise self._error(error, 0, self.size, free) from error

    def _finish(self) -> None:
        """Flush to the disk and close. An error that the system kept until now is raised here."""
        if self.size is not None and self._written < self.size:
            said = f"{quote(self.path, PATH_LIMIT)} must be written whole"
            raise ValueError(f"{said}: {self._written} of {self.size} bytes were")
        try:
            os.fsync(self._fd)
            fd, self._fd = self._fd, -1
            os.close(fd)
        except OSError as error:
            raise self._error(error, self._end, self.size or self._written) from error

    def _abandon(self) -> None:
        """Close without a word: another error is on its way."""
        fd, self._fd = self._fd, -1
        close_quietly(fd)

    def _error(self, error: OSError, offset: int, needed: int, free: int | None = None) -> OSError:
        if error.errno in _NO_SPACE:
            free = _free_bytes(self._fd) if free is None else free
            said = "" if free is None else f", {free} are free"
            return os_error(error, self.path, f": the file needs {needed} bytes{said}")
        return os_error(error, self.path, f", writing byte {offset}")


def _free_bytes(fd: int) -> int | None:
    """Return the free bytes of the file system of a descriptor, None if it does not say."""
    try:
        status = os.fstatvfs(fd)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def close_quietly(fd: int) -> None:
    """Close where nothing hangs on the answer, a descriptor that is there (>= 0)."""
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.close(fd)


@contextlib.contextmanager
def closing(fd: int) -> Iterator[None]:
    """Close a descriptor at the end, quietly."""
    try:
        yield
    finally:
        close_quietly(fd)


def fsync_directory(fd: int, path: Path) -> None:
    """Make names in a directory durable. Some file systems cannot, and say EINVAL."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise os_error(error, path) from error


@contextlib.contextmanager
def errors_about(path: Path) -> Iterator[None]:
    """Give the errors of system calls the path that they are about."""
    try:
        yield
    except OSError as error:
        raise os_error(error, path) from error
