"""Temporary files and folders beside a target: unique, locked while their process lives, removed after it.

A name is `.{target}.{16 hex digits}.quantrim-part`, or `.quantrim-old` for a folder that is being replaced
where the file system cannot exchange two names in one step."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
from pathlib import Path

from .descriptors import duplicate, open_above_stdio
from .errors import PATH_LIMIT, quote
from .writer import close_quietly, os_error

PART = ".quantrim-part"
OLD = ".quantrim-old"
NAME_BYTES = 255  # of a file name, on every common file system
ANOTHER_RUN = "another run writes there"
ATTEMPTS = 100  # at what another run may undo
_RENAME_EXCHANGE = 2
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN)
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def _stem(target: str) -> str:
    """What the temporaries of a target begin with; long names are cut and told apart by their hash."""
    room = NAME_BYTES - len(f"..{'0' * 16}{PART}")
    raw = os.fsencode(target)
    if len(raw) > room:
        digest = hashlib.sha256(raw).hexdigest()[:16]
        target = raw[: room - 17].decode("utf-8", "ignore") + "~" + digest
    return f".{target}."


def temporary_name(target: str, suffix: str = PART) -> str:
    return f"{_stem(target)}{secrets.token_hex(8)}{suffix}"


def split_target(path: Path) -> tuple[Path, str]:
    """The directory and the name of a target. ValueError where the path ends in no name to give."""
    name = path.name
    if name in ("", ".", ".."):
        raise ValueError(f"target must end in the name of a file or folder, not {quote(path, PATH_LIMIT)}")
    return path.parent, name


def open_directory(path: Path) -> int:
    """A descriptor of the target's directory: what happens to the path or the working directory later does
    not matter. OSError names the path."""
    try:
        return open_above_stdio(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise os_error(error, path) from error


class _TakenError(Exception):
    """Another run removed what was just made."""


class Temporary:
    """One temporary file or folder in the directory `directory` (a descriptor).

    `fd` is open for writing (file) or reading (folder) and holds the lock that says it is alive. `discard`
    undoes everything at any moment, any number of times; in a forked child it closes only."""

    def __init__(self, target: Path, folder: bool) -> None:
        self.target = target
        self.parent, self.target_name = split_target(target)
        self.folder = folder
        self.name = ""
        self.aside = ""  # what the target is called while it is being replaced in two steps
        self.fd = -1
        self._pid = os.getpid()
        self.directory = open_directory(self.parent)

    def create(self) -> None:
        for _ in range(ATTEMPTS):
            # the name first: a signal may come between the file and its descriptor
            self.name = temporary_name(self.target_name)
            try:
                self.fd = self._make()
            except FileExistsError:
                self.name = ""  # another's
                continue
            except _TakenError:
                continue
            except OSError as error:
                raise os_error(error, self.target) from error
            # Another process may have taken the new name for a dead one's before the lock was there.
            if _try_lock(self.fd) is not False and _same_inode(self.name, self.directory, self.fd):
                return
            self._close()
        raise OSError(errno.EEXIST, f"no free name for a temporary file: {ANOTHER_RUN}", os.fspath(self.target))

    def _make(self) -> int:
        if self.folder:
            os.mkdir(self.name, 0o777, dir_fd=self.directory)
            try:
                return open_above_stdio(self.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.directory)
            except FileNotFoundError as error:  # without a lock yet, another run took it for a dead one's
                raise _TakenError from error
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return open_above_stdio(self.name, flags, 0o666, dir_fd=self.directory)

    def duplicate(self) -> int:
        """A descriptor for the writer, who closes it before the rename; the lock lives on in `fd`."""
        try:
            return duplicate(self.fd)
        except OSError as error:
            raise os_error(error, self.target) from error

    def rename(self) -> None:
        """Put it in the target's place, in one step. OSError as the system gives it."""
        os.rename(self.name, self.target_name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        self.name = ""

    def discard(self) -> None:
        self._close()
        if self.directory >= 0 and os.getpid() == self._pid:
            if self.aside:
                restore_or_remove(self.aside, self.target_name, self.directory)
                self.aside = ""
            if self.name:
                remove(self.name, self.directory)
                self.name = ""
        fd, self.directory = self.directory, -1
        if fd >= 0:
            close_quietly(fd)

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            close_quietly(fd)


def remove(name: str, directory: int) -> None:
    """Remove a file or folder whole; links in it are not followed. What cannot be removed stays."""
    try:
        os.unlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.EPERM):  # EPERM: what macOS says of a folder
            with contextlib.suppress(OSError):
                _remove_folder(name, directory)


def _remove_folder(name: str, directory: int) -> None:
    fd = _open_folder(name, directory)
    if fd >= 0:
        try:
            for entry in os.listdir(fd):  # noqa: PTH208 (a descriptor)
                remove(entry, fd)
        finally:
            close_quietly(fd)
    os.rmdir(name, dir_fd=directory)


def restore_or_remove(aside: str, target: str, directory: int) -> None:
    """Undo the first of two steps, or end after the second: bring a folder moved aside back if its place is
    still empty, and remove it if not."""
    with contextlib.suppress(OSError):
        if exists(target, directory):
            remove(aside, directory)
        else:
            os.rename(aside, target, src_dir_fd=directory, dst_dir_fd=directory)


def remove_stale(path: str | os.PathLike[str]) -> list[str]:
    """Remove the temporaries that killed runs left beside the target `path`; returns their names.

    Those of live processes, which hold a lock, stay; so do those that cannot be opened or locked. A folder
    that was moved aside by a run killed before it could put the new one in its place is moved back."""
    parent, target = split_target(Path(path))
    directory = open_directory(parent)
    try:
        return [name for name in _names(target, directory) if _remove_if_dead(name, target, directory)]
    finally:
        close_quietly(directory)


def refuse_another_run(path: str | os.PathLike[str], own: str = "") -> None:
    """OSError (EBUSY) where a run that is alive, be it this process, is writing the target `path`.

    own: the name of the temporary that is the caller's. A killed run's lock ended with it; where the file system has
    no locks, nobody is seen."""
    parent, target = split_target(Path(path))
    directory = open_directory(parent)
    try:
        if any(_is_held(name, directory) for name in _names(target, directory) if name != own):
            raise OSError(errno.EBUSY, ANOTHER_RUN, os.fspath(path))
    finally:
        close_quietly(directory)


def _names(target: str, directory: int) -> list[str]:
    """The temporaries of a target, whoever made them."""
    pattern = re.compile(re.escape(_stem(target)) + f"[0-9a-f]{{16}}({re.escape(PART)}|{re.escape(OLD)})")
    return sorted(name for name in os.listdir(directory) if pattern.fullmatch(name))


def _open_temporary(name: str, directory: int) -> int:
    """A descriptor of a temporary; -1 where it is none, or may not be opened."""
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return -1
        # a file for writing too: some network file systems lock nothing else
        access = os.O_RDONLY if stat.S_ISDIR(mode) else os.O_RDWR
        return open_above_stdio(name, access | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return -1


def _is_held(name: str, directory: int) -> bool:
    fd = _open_temporary(name, directory)
    if fd < 0:
        return False
    try:
        return _try_lock(fd) is False
    finally:
        close_quietly(fd)


def _remove_if_dead(name: str, target: str, directory: int) -> bool:
    fd = _open_temporary(name, directory)
    if fd < 0:
        return False
    try:
        if _try_lock(fd) is not True or not _same_inode(name, directory, fd):
            return False
        if name.endswith(OLD):
            restore_or_remove(name, target, directory)
        else:
            remove(name, directory)
        return not exists(name, directory)
    except OSError:
        return False
    finally:
        close_quietly(fd)


def exchange(source: str, target: str, directory: int) -> bool:
    """Swap two names of a directory in one step; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = (os.fsencode(source), os.fsencode(target))
    if renameat2(directory, names[0], directory, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), target)


def _try_lock(fd: int) -> bool | None:
    """True: locked; False: another process holds it; None: this file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def _same_inode(name: str, directory: int, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(name, dir_fd=directory, follow_symlinks=False), os.fstat(fd))
    except OSError:
        return False


def exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def lock_folder(name: str, directory: int) -> int:
    """A descriptor that holds the lock of a folder; -1 where that cannot be had."""
    fd = _open_folder(name, directory)
    if fd >= 0:
        _try_lock(fd)
    return fd


def _open_folder(name: str, directory: int) -> int:
    """A descriptor of a folder; -1 for one that may not be read, and for a link."""
    try:
        return open_above_stdio(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except OSError:
        return -1
