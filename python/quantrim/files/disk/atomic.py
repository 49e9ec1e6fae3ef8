"""Files and folders that appear whole or not at all.

The order on the disk is: bytes, fsync of each file, rename, fsync of the directory. Until the rename they have another
name beside the target, `.{target}.{16 hex digits}.quantrim-part`, locked while their process lives. A killed process
leaves the target as it was, and that temporary, which the next write to the same target removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import warnings
import weakref
from pathlib import Path

from .descriptors import duplicate, kind_of, named_path, open_above_stdio
from .errors import PATH_LIMIT, quote
from .temporaries import FOLDER, NEW_FILE, Temporary, exchange, remove
from .writer import FileWriter, closing, errors_about, fsync_directory, os_error

_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)  # what rename says of a folder onto something


class AtomicFile(FileWriter):
    """A file written beside its target and renamed onto it when the with block ends well.

    On any exception, Ctrl-C too, the target keeps its bytes and the temporary is removed. A target that is a symbolic
    link is replaced itself; the file it leads to stays as it is. Directories and devices are refused. The mode is that
    of a new file (0o666 less the umask). Use it once.

    alone: OSError where another run is writing the same target; without it the last of them stays.
    """

    def __init__(self, path: str | os.PathLike[str], size: int | None = None, *, alone: bool = False) -> None:
        super().__init__(named_path(path, "path"), size)
        self._alone = alone
        self._temporary: Temporary | None = None

    def __enter__(self) -> AtomicFile:
        _refuse_special(self.path)
        if self._temporary is not None:
            raise ValueError(f"AtomicFile {quote(self.path, PATH_LIMIT)} must be entered once")
        temporary = self._temporary = Temporary(self.path, folder=False, alone=self._alone)
        # also for a signal that arrives where no handler of an exception can see it, such as on entry to __exit__
        self._finalizer = weakref.finalize(self, temporary.discard)
        try:
            temporary.create()
            with errors_about(self.path):
                fd = duplicate(temporary.fd)  # closed before the rename; the lock lives on in the other
            self._attach(fd)
        except BaseException:
            self._undo(temporary)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        temporary = self._temporary
        assert temporary is not None
        try:
            if kind is None:
                self._finish()
                with errors_about(self.path):
                    temporary.rename()
                fsync_directory(temporary.directory, self.path)
        finally:
            self._undo(temporary)

    def _undo(self, temporary: Temporary) -> None:
        """Remove what is left: nothing, after a rename."""
        self._abandon()
        temporary.discard()
        self._finalizer.detach()


class AtomicFolder:
    """A folder built beside its target and renamed onto it when the with block ends well.

    The target may be absent or an empty folder. A folder that holds something is replaced only with `overwrite=True`:
    the two are exchanged in one step and the old one is removed with all that is in it; OSError, before any work, where
    the file system cannot do that. On any exception nothing is left of the new folder. Write an index last, after the
    shards it names. OSError where another run is writing the same target.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self.path = named_path(path, "path")
        self.overwrite = overwrite
        self._temporary: Temporary | None = None
        self._files: dict[str, FolderFile] = {}
        self._subfolders: set[str] = set()

    def __enter__(self) -> AtomicFolder:
        if self._temporary is not None:
            raise ValueError(f"AtomicFolder {quote(self.path, PATH_LIMIT)} must be entered once")
        occupied = self._refuse_occupied()
        temporary = self._temporary = Temporary(self.path, folder=True, alone=True)
        self._finalizer = weakref.finalize(self, temporary.discard)
        try:
            temporary.create()
            if occupied:
                _refuse_without_exchange(temporary.fd, self.path)
        except BaseException:
            self._undo(temporary)
            raise
        return self

    def file(self, name: str, size: int | None = None) -> FolderFile:
        """Return a file of the folder, to be written in a with block of its own. `name` is a plain name, used once; or
        several with "/" between them, the last one in subfolders that are made."""
        temporary = self._temporary
        if temporary is None or temporary.fd < 0:
            raise ValueError(f"AtomicFolder {quote(self.path, PATH_LIMIT)} must be open, inside its with block")
        if not isinstance(name, str) or "\0" in name or {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"name must be a plain file name, or several with / between them, not {quote(name)}")
        if name in self._files:
            raise ValueError(f"name must be new in the folder, not {quote(name)} again")
        for folder in map(str, reversed(Path(name).parents[:-1])):
            if folder not in self._subfolders:
                with errors_about(self.path / folder):
                    os.mkdir(folder, dir_fd=temporary.fd)
                self._subfolders.add(folder)
        self._files[name] = FolderFile(self.path / name, name, size, temporary)
        return self._files[name]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        temporary = self._temporary
        assert temporary is not None
        try:
            if kind is None:
                self._commit(temporary)
        finally:
            self._undo(temporary)

    def _undo(self, temporary: Temporary) -> None:
        """Remove what is left: nothing after a rename, the old folder after an exchange."""
        for file in self._files.values():
            file._abandon()
        temporary.discard()
        self._finalizer.detach()

    def _commit(self, temporary: Temporary) -> None:
        unfinished = [quote(name) for name, file in self._files.items() if not file.finished]
        if unfinished:
            raise ValueError(f"files must be written before their folder ends, not {', '.join(unfinished)}")
        for name in sorted(self._subfolders, reverse=True):
            with errors_about(self.path / name):
                fd = open_above_stdio(name, FOLDER, dir_fd=temporary.fd)
            with closing(fd):
                fsync_directory(fd, self.path / name)
        fsync_directory(temporary.fd, self.path)
        try:
            temporary.rename()
        except OSError as error:
            if error.errno not in _OCCUPIED:
                raise os_error(error, self.path) from error
            self._refuse_occupied()
            with errors_about(self.path):
                exchange(temporary.name, self.path.name, temporary.directory)
        fsync_directory(temporary.directory, self.path)
        if temporary.name:  # what the replaced folder is called now
            remove(temporary.name, temporary.directory)
            left = self.path.parent / temporary.name
            temporary.name = ""
            if os.path.lexists(left):
                text = f"the replaced folder could not be removed whole; it is {quote(left, PATH_LIMIT)}"
                warnings.warn(text, UserWarning, stacklevel=3)

    def _refuse_occupied(self) -> bool:
        """Return whether there is something to replace. ValueError for a target that must not be."""
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return False
        said = f"target {quote(self.path, PATH_LIMIT)} must be"
        if not (stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            raise ValueError(f"{said} a folder or absent, not {kind_of(mode)}")
        occupied = stat.S_ISLNK(mode) or any(self.path.iterdir())
        if not self.overwrite and occupied:
            what = "a symbolic link" if stat.S_ISLNK(mode) else "a folder with files in it"
            raise ValueError(f"{said} absent or an empty folder unless overwrite=True, not {what}")
        keep = [Path(os.path.realpath(Path("~").expanduser()))]
        with contextlib.suppress(OSError):  # the working directory may have been removed
            keep.append(Path.cwd())
        real = Path(os.path.realpath(self.path))
        if any(real in (each, *each.parents) for each in keep):
            raise ValueError(f"{said} neither the home nor the working directory, nor hold them")
        return occupied


class FolderFile(FileWriter):
    """A file of an AtomicFolder: on the disk when its with block has ended, seen when the folder's has."""

    def __init__(self, path: Path, name: str, size: int | None, folder: Temporary) -> None:
        super().__init__(path, size)
        self._name = name
        self._folder = folder
        self.finished = False

    def __enter__(self) -> FolderFile:
        with errors_about(self.path):
            fd = open_above_stdio(self._name, NEW_FILE, dir_fd=self._folder.fd)
        try:
            self._attach(fd)
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
                self.finished = True
        finally:
            self._abandon()


def _refuse_special(path: Path) -> None:
    """Raise ValueError for a target, or what it links to, that is no regular file: a rename would put a file in the
    place of /dev/null."""
    mode = stat.S_IFREG
    with contextlib.suppress(OSError):  # there is nothing, or a link that leads nowhere
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"target {quote(path, PATH_LIMIT)} must be a file or absent, not {kind_of(mode)}")


def _refuse_without_exchange(directory: int, target: Path) -> None:
    """Raise OSError where the file system cannot exchange two folders, tried with two new ones in an empty folder."""
    with errors_about(target):
        os.mkdir("a", dir_fd=directory)
        os.mkdir("b", dir_fd=directory)
        exchange("a", "b", directory)
        os.rmdir("a", dir_fd=directory)
        os.rmdir("b", dir_fd=directory)
