"""Files and folders that appear whole or not at all.

The order on the disk is: bytes, fsync of each file, rename, fsync of the directory. A killed process leaves
the target as it was, and beside it a temporary that the next write to the same target removes."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import warnings
import weakref
from pathlib import Path
from types import TracebackType

from .descriptors import kind_of, named_path, open_above_stdio
from .errors import PATH_LIMIT, quote
from .overlap import refuse_same_file
from .temporaries import (
    ANOTHER_RUN,
    ATTEMPTS,
    OLD,
    Temporary,
    exchange,
    lock_folder,
    refuse_another_run,
    remove,
    remove_stale,
    restore_or_remove,
    temporary_name,
)
from .writer import FileWriter, close_quietly, fsync_directory, os_error

__all__ = ["AtomicFile", "AtomicFolder", "FileWriter", "refuse_another_run", "refuse_same_file", "remove_stale"]

_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)  # what rename says of a folder onto something


class AtomicFile(FileWriter):
    """A file written beside its target and renamed onto it when the with block ends well.

    On any exception, Ctrl-C too, the target keeps its bytes and the temporary is removed. A target that is a
    symbolic link is replaced itself; the file it leads to stays as it is. Directories and devices are
    refused. The mode is that of a new file (0o666 less the umask). Use it once.

    alone: OSError where another run is writing the same target; without it the last of them stays."""

    def __init__(self, path: str | os.PathLike[str], size: int | None = None, *, alone: bool = False) -> None:
        super().__init__(named_path(path, "path"), size)
        self._alone = alone
        self._temporary: Temporary | None = None

    def __enter__(self) -> AtomicFile:
        _refuse_special(self.path)
        if self._temporary is not None:
            raise ValueError(f"AtomicFile {quote(self.path, PATH_LIMIT)} must be entered once")
        temporary = self._temporary = Temporary(self.path, folder=False)
        # for a signal that arrives where no handler of an exception can see it, such as on entry to __exit__
        self._finalizer = weakref.finalize(self, temporary.discard)
        try:
            _begin(temporary, self._alone)
            self._attach(temporary.duplicate())
        except BaseException:
            self._undo(temporary)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        temporary = self._temporary
        if temporary is None:
            return
        try:
            if kind is None:
                self._finish()
                _rename(temporary)
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

    The target may be absent or an empty folder. A folder that holds something is replaced only with
    `overwrite=True`: the two are exchanged in one step and the old one is removed with all that is in it. On
    any exception nothing is left of the new folder. Write an index last, after the shards it names. OSError
    where another run is writing the same target."""

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self.path = named_path(path, "path")
        self.overwrite = overwrite
        self._temporary: Temporary | None = None
        self._files: dict[str, FolderFile] = {}
        self._subfolders: set[str] = set()

    def __enter__(self) -> AtomicFolder:
        if self._temporary is not None:
            raise ValueError(f"AtomicFolder {quote(self.path, PATH_LIMIT)} must be entered once")
        self._refuse_occupied()
        temporary = self._temporary = Temporary(self.path, folder=True)
        self._finalizer = weakref.finalize(self, temporary.discard)
        try:
            _begin(temporary, alone=True)
        except BaseException:
            self._undo(temporary)
            raise
        return self

    def file(self, name: str, size: int | None = None) -> FolderFile:
        """A file of the folder, written in a with block of its own. `name` is a plain name, used once; or several with
        "/" between them, the last one in subfolders that are made."""
        if self._temporary is None or self._temporary.fd < 0:
            raise ValueError(f"AtomicFolder {quote(self.path, PATH_LIMIT)} must be open, inside its with block")
        if not isinstance(name, str) or "\0" in name or {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"name must be a plain file name, or several with / between them, not {quote(name)}")
        if name in self._files:
            raise ValueError(f"name must be new in the folder, not {quote(name)} again")
        self._make_subfolders(name, self._temporary)
        self._files[name] = FolderFile(self.path / name, name, size, self._temporary)
        return self._files[name]

    def _make_subfolders(self, name: str, temporary: Temporary) -> None:
        parts = name.split("/")[:-1]
        for path in ("/".join(parts[: k + 1]) for k in range(len(parts))):
            if path in self._subfolders:
                continue
            try:
                os.mkdir(path, dir_fd=temporary.fd)
            except OSError as error:
                raise os_error(error, self.path / path) from error
            self._subfolders.add(path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        temporary = self._temporary
        if temporary is None:
            return
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
        for path in sorted(self._subfolders, reverse=True):
            self._fsync_subfolder(path, temporary)
        fsync_directory(temporary.fd, self.path)
        for _ in range(ATTEMPTS):
            if self._put(temporary):
                break
        else:
            raise OSError(errno.EBUSY, ANOTHER_RUN, os.fspath(self.path))
        fsync_directory(temporary.directory, self.path)
        _remove_replaced(temporary)

    def _fsync_subfolder(self, path: str, temporary: Temporary) -> None:
        try:
            fd = open_above_stdio(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=temporary.fd)
        except OSError as error:
            raise os_error(error, self.path / path) from error
        try:
            fsync_directory(fd, self.path / path)
        finally:
            close_quietly(fd)

    def _put(self, temporary: Temporary) -> bool:
        """Bring the folder to its place; False where another run was in between, and it is to be tried again."""
        try:
            temporary.rename()
            return True
        except OSError as error:
            if error.errno not in _OCCUPIED:
                raise os_error(error, self.path) from error
        self._refuse_occupied()
        return _replace(temporary)

    def _refuse_occupied(self) -> None:
        """ValueError for a target that must not be replaced."""
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        said = f"target {quote(self.path, PATH_LIMIT)} must be"
        if not (stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            raise ValueError(f"{said} a folder or absent, not {kind_of(mode)}")
        if not self.overwrite and (stat.S_ISLNK(mode) or any(self.path.iterdir())):
            what = "a symbolic link" if stat.S_ISLNK(mode) else "a folder with files in it"
            raise ValueError(f"{said} absent or an empty folder unless overwrite=True, not {what}")
        real = Path(os.path.realpath(self.path))
        if any(real == keep or real in keep.parents for keep in _never_replaced()):
            raise ValueError(f"{said} neither the home nor the working directory, nor hold them")


class FolderFile(FileWriter):
    """A file of an AtomicFolder: on the disk when its with block has ended, seen when the folder's has."""

    def __init__(self, path: Path, name: str, size: int | None, folder: Temporary) -> None:
        super().__init__(path, size)
        self._name = name
        self._folder = folder
        self.finished = False

    def __enter__(self) -> FolderFile:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            fd = open_above_stdio(self._name, flags, 0o666, dir_fd=self._folder.fd)
        except OSError as error:
            raise os_error(error, self.path) from error
        try:
            self._attach(fd)
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                self.finished = True
        finally:
            self._abandon()


def _refuse_special(path: Path) -> None:
    """ValueError for a target, or what it links to, that is no regular file: a rename would put a file in the
    place of /dev/null."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ELOOP:
            return
        raise
    if not stat.S_ISREG(mode):
        raise ValueError(f"target {quote(path, PATH_LIMIT)} must be a file or absent, not {kind_of(mode)}")


def _never_replaced() -> list[Path]:
    """Folders that no mistyped target may wipe."""
    keep = [Path(os.path.realpath(Path("~").expanduser()))]
    with contextlib.suppress(OSError):  # the working directory may have been removed
        keep.append(Path.cwd())
    return keep


def _begin(temporary: Temporary, alone: bool) -> None:
    """Make a temporary, and remove those of killed runs. alone: OSError where a live run has one."""
    if alone:
        refuse_another_run(temporary.target)
    remove_stale(temporary.target)
    temporary.create()
    if alone:  # two that began together did not see each other
        refuse_another_run(temporary.target, temporary.name)


def _rename(temporary: Temporary) -> None:
    try:
        temporary.rename()
    except OSError as error:
        raise os_error(error, temporary.target) from error


def _replace(temporary: Temporary) -> bool:
    """Exchange the new folder with the target; `temporary` then names the old one. False where there is none now."""
    try:
        return exchange(temporary.name, temporary.target_name, temporary.directory) or _move_aside(temporary)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise os_error(error, temporary.target) from error


def _move_aside(temporary: Temporary) -> bool:
    """The exchange in two steps, for file systems without it. A run killed between them leaves no target, and
    the old folder under a name from which the next run's remove_stale brings it back. False where another run put
    its own there between them: then the old one is gone."""
    directory, target = temporary.directory, temporary.target_name
    lock = lock_folder(target, directory)  # so that no other run brings it back between the two
    try:
        temporary.aside = temporary_name(target, OLD)
        os.rename(target, temporary.aside, src_dir_fd=directory, dst_dir_fd=directory)
        temporary.rename()
        return True
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise
        restore_or_remove(temporary.aside, target, directory)
        temporary.aside = ""
        return False
    finally:
        if lock >= 0:
            close_quietly(lock)


def _remove_replaced(temporary: Temporary) -> None:
    """Remove the old folder, and say so where that fails: the target is new and whole all the same."""
    name = temporary.aside or temporary.name
    if not name:
        return
    remove(name, temporary.directory)
    temporary.aside = temporary.name = ""
    left = temporary.parent / name
    if os.path.lexists(left):
        text = f"the replaced folder could not be removed whole; it is {quote(left, PATH_LIMIT)}"
        warnings.warn(text, UserWarning, stacklevel=4)
