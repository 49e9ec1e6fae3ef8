"""Temporary files and folders beside a target: unique, locked while their process lives, removed after it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from .descriptors import open_above_stdio
from .errors import PATH_LIMIT, quote
from .writer import close_quietly, closing, errors_about

PART = ".quantrim-part"
ANOTHER_RUN = "another run writes there"
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW  # to open one
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_STEM_BYTES = 255 - len(f"..{'0' * 16}{PART}")  # of a target's name: file names have 255 bytes
_RENAME_EXCHANGE = 2


class Temporary:
    """One temporary file or folder in the directory `directory` (a descriptor).

    `fd` is open for writing (file) or reading (folder) and holds the lock that says it is alive. `discard` undoes
    everything at any moment, any number of times; in a forked child it closes only.
    """

    def __init__(self, target: Path, folder: bool, alone: bool) -> None:
        self.target, self.folder, self.alone = target, folder, alone
        self.name = ""
        self.fd = self.directory = -1
        self._pid = os.getpid()

    def create(self) -> None:
        """Make it, and remove those of killed runs. alone: OSError where a live run has one."""
        self.directory = _open_directory(self.target)
        with _locked(self.directory), errors_about(self.target):
            names = _temporaries(self.target, self.directory)
            if self.alone and any(_is_alive(name, self.directory) for name in names):
                raise OSError(errno.EBUSY, ANOTHER_RUN)
            _remove_dead(names, self.directory)
            # the name first: a signal may come between the file and its descriptor
            name = self.name = f"{_stem(self.target)}{secrets.token_hex(8)}{PART}"
            if self.folder:
                os.mkdir(name, 0o777, dir_fd=self.directory)
            self.fd = open_above_stdio(name, FOLDER if self.folder else NEW_FILE, dir_fd=self.directory)
            _try_lock(self.fd)

    def rename(self) -> None:
        """Put it in the target's place, in one step. OSError as the system gives it."""
        os.rename(self.name, self.target.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        self.name = ""

    def discard(self) -> None:
        fd, self.fd = self.fd, -1
        close_quietly(fd)
        if self.name and self.directory >= 0 and os.getpid() == self._pid:
            remove(self.name, self.directory)
            self.name = ""
        fd, self.directory = self.directory, -1
        close_quietly(fd)


def remove_stale(path: str | os.PathLike[str]) -> list[str]:
    """Remove the temporaries that killed runs left beside the target `path`; return their names.

    Those of live processes, which hold a lock, stay; so do those that cannot be opened or locked.
    """
    directory = _open_directory(Path(path))
    with closing(directory), _locked(directory):
        return _remove_dead(_temporaries(Path(path), directory), directory)


def refuse_another_run(path: str | os.PathLike[str]) -> None:
    """Raise OSError (EBUSY) where a run that is alive, be it this process, is writing the target `path`.

    A killed run's lock ended with it; where the file system has no locks, nobody is seen.
    """
    directory = _open_directory(Path(path))
    with closing(directory):
        if any(_is_alive(name, directory) for name in _temporaries(Path(path), directory)):
            raise OSError(errno.EBUSY, ANOTHER_RUN, os.fspath(path))


def exchange(source: str, target: str, directory: int) -> None:
    """Swap two names of a directory in one step."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = (os.fsencode(source), os.fsencode(target))
    code = errno.ENOSYS
    if renameat2 is not None:
        if renameat2(directory, names[0], directory, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
            return
        code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(code, "the file system cannot exchange two folders; remove the target first")
    raise OSError(code, os.strerror(code))


def remove(name: str, directory: int) -> None:
    """Remove a file or folder whole; links in it are not followed. What cannot be removed stays."""
    try:
        os.unlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.EPERM):  # EPERM: what macOS says of a folder
            with contextlib.suppress(OSError):
                fd = open_above_stdio(name, FOLDER, dir_fd=directory)
                with closing(fd):
                    for entry in os.listdir(fd):  # noqa: PTH208 (a descriptor)
                        remove(entry, fd)
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=directory)


def _open_directory(target: Path) -> int:
    """Return a descriptor of the target's directory: what happens to the path or the working directory later does not
    matter. ValueError where the path ends in no name to give."""
    if target.name in ("", ".", ".."):
        raise ValueError(f"target must end in the name of a file or folder, not {quote(target, PATH_LIMIT)}")
    with errors_about(target.parent):
        return open_above_stdio(target.parent, os.O_RDONLY | os.O_DIRECTORY)


@contextlib.contextmanager
def _locked(directory: int) -> Iterator[None]:
    """Keep other runs from sweeping a directory, so that what is made in it is locked before they see it.

    For a second at most: somebody else may hold the lock of a folder for long.
    """
    for _ in range(100):
        if _try_lock(directory) is not False:
            break
        time.sleep(0.01)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(directory, fcntl.LOCK_UN)


def _stem(target: Path) -> str:
    """Return what the names of a target's temporaries begin with. A long name is cut: two that begin alike are taken
    for one."""
    return f".{os.fsdecode(os.fsencode(target.name)[:_STEM_BYTES])}."


def _temporaries(target: Path, directory: int) -> list[str]:
    """Return the names of a target's temporaries, whoever made them."""
    pattern = re.compile(re.escape(_stem(target)) + f"[0-9a-f]{{16}}{re.escape(PART)}")
    return sorted(name for name in os.listdir(directory) if pattern.fullmatch(name))


def _is_alive(name: str, directory: int) -> bool | None:
    """Return whether the run that made a temporary is alive; None where that cannot be known."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:  # a file for writing: some network file systems lock nothing else
            fd = open_above_stdio(name, os.O_RDWR | flags, dir_fd=directory)
        except IsADirectoryError:
            fd = open_above_stdio(name, os.O_RDONLY | flags, dir_fd=directory)
    except OSError:
        return None
    with closing(fd):
        locked = _try_lock(fd)
    return None if locked is None else not locked


def _try_lock(fd: int) -> bool | None:
    """Return whether it is locked now; None where the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if isinstance(error, BlockingIOError) else None
    return True


def _remove_dead(names: list[str], directory: int) -> list[str]:
    """Remove those of dead runs; return their names."""
    dead = [name for name in names if _is_alive(name, directory) is False]
    for name in dead:
        remove(name, directory)
    left = set(os.listdir(directory)) if dead else set()
    return [name for name in dead if name not in left]
