"""A file that is being read: bytes on demand, and an error where it changed since it was opened."""

from __future__ import annotations

import io
import os
import threading
import weakref
from pathlib import Path
from typing import BinaryIO, cast

from .descriptors import CHUNK, duplicate, open_regular
from .errors import FormatError

# Files that the process keeps open to read; more are opened for each read, since a process may have 1024.
KEPT_OPEN = threading.Semaphore(256)
READ_LIMIT = 32 << 20  # bytes that a parser may ask a stream for at once: directories of zip files, not weights


class SourceFile:
    """A regular file, opened for reading. `size` is in bytes. Threads may read at once.

    FormatError for what is no regular file. One that is forgotten is closed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        fd = open_regular(path)
        self._identity = _identity(os.fstat(fd))
        self.size = self._identity[2]
        slots = KEPT_OPEN
        if slots.acquire(blocking=False):
            self._fd: int | None = fd
            self._closer = weakref.finalize(self, _close, fd, slots)
        else:
            self._fd = None
            os.close(fd)

    def close(self) -> None:
        """Close the file; whoever reads later opens it again for that."""
        if self._fd is not None:
            self._fd = None
            self._closer()

    def read_into(self, view: memoryview, offset: int, tensor: str | None = None) -> None:
        """Fill `view` from byte `offset` on. FormatError, about `tensor`, where the file ends before that; OSError with
        the path."""
        fd = self._fd
        if fd is not None:
            self._fill(fd, view, offset, tensor)
            return
        fd = open_regular(self.path)
        try:
            self._check(os.fstat(fd), tensor, offset)
            self._fill(fd, view, offset, tensor)
        finally:
            os.close(fd)

    def read(self, count: int, offset: int, tensor: str | None = None) -> bytearray:
        """Return `count` bytes from `offset` on, a count already checked against the size of the file."""
        data = bytearray(count)
        self.read_into(memoryview(data), offset, tensor)
        return data

    def file_object(self) -> BinaryIO:
        """Return a file object on the same file, for libraries that want one; to be closed by the caller."""
        if self._fd is not None:
            return os.fdopen(duplicate(self._fd), "rb")
        fd = open_regular(self.path)
        try:
            self._check(os.fstat(fd))
            return os.fdopen(fd, "rb")
        except BaseException:
            os.close(fd)
            raise

    def stream(self, begin: int = 0, size: int | None = None) -> BinaryIO:
        """Return bytes `begin` to `begin + size` as a file of their own, for parsers that want one."""
        return cast(BinaryIO, io.BufferedReader(_Window(self, begin, self.size - begin if size is None else size)))

    def _fill(self, fd: int, view: memoryview, offset: int, tensor: str | None) -> None:
        done = 0
        while done < len(view):
            try:
                count = os.preadv(fd, [view[done : done + CHUNK]], offset + done)
            except InterruptedError:
                continue
            except OSError as error:
                problem = f"{error.strerror}, reading byte {offset + done}"
                raise OSError(error.errno, problem, os.fspath(self.path)) from error
            if not count:
                end = os.fstat(fd).st_size
                problem = f"file ends at byte {end} now, it had {self.size} bytes when it was opened"
                raise FormatError(problem, path=self.path, tensor=tensor, offset=offset + done)
            done += count

    def check_unchanged(self) -> None:
        """Raise FormatError if the file was changed, replaced or removed since it was opened."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise FormatError("file was removed while it was being read", path=self.path) from None
        self._check(status)

    def _check(self, status: os.stat_result, tensor: str | None = None, offset: int | None = None) -> None:
        found = _identity(status)
        if found != self._identity:
            names = ("device", "inode", "size in bytes", "time of change in ns")
            rows = zip(names, self._identity, found, strict=True)
            changes = ", ".join(f"{name} {was} became {now}" for name, was, now in rows if was != now)
            problem = f"file was changed while it was being read: {changes}"
            raise FormatError(problem, path=self.path, tensor=tensor, offset=offset)


class _Window(io.RawIOBase):
    """A stretch of a SourceFile."""

    def __init__(self, file: SourceFile, begin: int, size: int) -> None:
        self._file, self._begin, self._size, self._at = file, begin, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        place = offset + (0, self._at, self._size)[whence]
        if place < 0:
            raise ValueError(f"a place must be >= 0, not {place}")
        self._at = place
        return place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if len(buffer) > READ_LIMIT:
            problem = f"must not need {len(buffer)} bytes at once, at most {READ_LIMIT}"
            raise FormatError(problem, path=self._file.path, offset=self._begin + self._at)
        count = max(min(len(buffer), self._size - self._at), 0)
        self._file.read_into(memoryview(buffer)[:count], self._begin + self._at)
        self._at += count
        return count


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _close(fd: int, slots: threading.Semaphore) -> None:
    os.close(fd)
    slots.release()
