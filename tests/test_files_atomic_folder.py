"""Folders appear whole or not at all, and are replaced only when asked."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from files_helpers import (
    NEW,
    NEW_FOLDER,
    OLD,
    OLD_FOLDER,
    leftovers,
    nothing_written,
    open_descriptors,
    put,
    snapshot,
    write_folder,
    write_folders,
)

from quantrim.files import AtomicFolder
from quantrim.files.disk import atomic
from quantrim.files.disk.temporaries import exchange


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "model.safetensors"


@pytest.mark.parametrize("old", [None, {}])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_appears_whole(target: Path, old: dict[str, bytes] | None, overwrite: bool) -> None:
    put(target, old)
    descriptors = open_descriptors()
    with AtomicFolder(f"{target}/", overwrite) as folder:
        for name, data in NEW_FOLDER.items():
            with folder.file(name, len(data)) as file:
                file.pwrite(data, 0)
        assert snapshot(target) == old
    assert snapshot(target) == NEW_FOLDER
    assert leftovers(target.parent) == [] and open_descriptors() == descriptors


def test_a_full_folder_is_replaced_only_when_asked(target: Path) -> None:
    put(target, OLD_FOLDER)
    refusal = pytest.raises(ValueError, match="absent or an empty folder unless overwrite=True")
    with nothing_written(target), refusal, AtomicFolder(target):
        pytest.fail("refused before the work")
    write_folder(target)
    assert snapshot(target) == NEW_FOLDER and leftovers(target.parent) == []


def test_a_folder_that_fills_up_during_the_work_stays(target: Path) -> None:
    with pytest.raises(ValueError, match="unless overwrite=True"), AtomicFolder(target) as folder:
        with folder.file("a") as file:
            file.write(NEW)
        put(target, OLD_FOLDER)
    assert snapshot(target) == OLD_FOLDER and leftovers(target.parent) == []


def test_a_folder_with_folders_is_replaced_whole(target: Path) -> None:
    (target / "sub" / "deep").mkdir(parents=True)
    (target / "sub" / "deep" / "file").write_bytes(OLD)
    outside = target.parent.with_name("outside")
    put(outside, OLD_FOLDER)
    (target / "link").symlink_to(outside)
    write_folder(target)
    assert snapshot(target) == NEW_FOLDER and leftovers(target.parent) == []
    assert snapshot(outside) == OLD_FOLDER


def test_a_folder_target_that_is_a_file_or_a_link(target: Path) -> None:
    target.write_bytes(OLD)
    with (
        nothing_written(target),
        pytest.raises(ValueError, match="must be a folder or absent, not a regular file"),
    ):
        write_folder(target)
    linked, other = target.with_name("linked"), target.with_name("other")
    put(other, {})
    linked.symlink_to("other")
    with (
        nothing_written(linked),
        pytest.raises(ValueError, match="not a symbolic link"),
        AtomicFolder(linked),
    ):
        pass
    put(other, OLD_FOLDER)
    write_folder(linked)
    assert not linked.is_symlink() and snapshot(linked) == NEW_FOLDER and snapshot(other) == OLD_FOLDER
    assert leftovers(target.parent) == []


def test_folders_that_no_typing_mistake_may_wipe(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(target, OLD_FOLDER)
    monkeypatch.setenv("HOME", str(target))
    for path in (target, target.parent):
        with nothing_written(target), pytest.raises(ValueError, match="home nor the working directory"):
            write_folder(path)
    monkeypatch.setenv("HOME", "/")
    monkeypatch.chdir(target)
    for path in (target, target.parent):
        with nothing_written(target), pytest.raises(ValueError, match="home nor the working directory"):
            write_folder(path)


def test_names_in_a_folder(target: Path) -> None:
    with AtomicFolder(target) as folder:
        for name in ("", ".", "..", "/etc/x", "a\0", "a/../b", "a//b", "a/", "./a", 3):
            with pytest.raises(ValueError, match="must be a plain file name"):
                folder.file(name)  # type: ignore[arg-type]
        with folder.file("a") as file:
            file.write(b"1")
        with pytest.raises(ValueError, match="must be new in the folder, not 'a' again"):
            folder.file("a")
    with pytest.raises(ValueError, match="must be open"):
        folder.file("b")
    with pytest.raises(ValueError, match="must be entered once"), folder:
        pass
    assert snapshot(target) == {"a": b"1"}


def test_files_must_be_finished_before_their_folder(target: Path) -> None:
    refusal = pytest.raises(ValueError, match=r"must be written before .* not 'a', 'b'")
    with nothing_written(target), refusal, AtomicFolder(target) as folder:
        folder.file("a").__enter__().write(b"1")
        with pytest.raises(ZeroDivisionError), folder.file("b"):
            raise ZeroDivisionError
    refusal = pytest.raises(ValueError, match="written whole: 1 of 2")
    with nothing_written(target), refusal, AtomicFolder(target) as folder, folder.file("a", 2) as file:
        file.write(b"1")


@pytest.mark.promise("D101")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, OLD_FOLDER])
def test_any_exception_leaves_no_folder(target: Path, old: Any, error: type[BaseException]) -> None:
    put(target, old)
    with nothing_written(target), pytest.raises(error), AtomicFolder(target, overwrite=True) as folder:
        with folder.file("a") as file:
            file.write(NEW)
        folder.file("b").__enter__().write(NEW)
        raise error


def test_folders_are_exchanged_in_one_step(target: Path) -> None:
    put(target, OLD_FOLDER)
    put(target.with_name("new"), NEW_FOLDER)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        exchange("new", target.name, directory)
        assert snapshot(target) == NEW_FOLDER and snapshot(target.with_name("new")) == OLD_FOLDER
        with pytest.raises(FileNotFoundError):
            exchange("new", "missing", directory)
    finally:
        os.close(directory)


@pytest.mark.parametrize("code", [None, errno.EINVAL, errno.ENOSYS])
def test_where_folders_cannot_be_exchanged_none_is_replaced(
    target: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """It is said before the work; what is absent or empty can be written."""
    if code is None:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())  # a C library without the call
    else:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: SimpleNamespace(renameat2=lambda *_: -1))
        monkeypatch.setattr("ctypes.get_errno", lambda: code)
    put(target, OLD_FOLDER)
    refusal = pytest.raises(OSError, match="cannot exchange two folders; remove the target first")
    with nothing_written(target), refusal, AtomicFolder(target, overwrite=True):
        pytest.fail("refused before the work")
    for old in (None, {}):
        other = target.with_name(f"other-{old}")
        put(other, old)
        write_folder(other)
        assert snapshot(other) == NEW_FOLDER


def test_an_old_folder_that_cannot_be_removed_is_reported(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(target, OLD_FOLDER)
    monkeypatch.setattr(atomic, "remove", lambda *_: None)
    with pytest.warns(UserWarning, match="could not be removed whole"):
        write_folder(target)
    assert snapshot(target) == NEW_FOLDER
    assert [snapshot(target.with_name(name)) for name in leftovers(target.parent)] == [OLD_FOLDER]


# Two runs on one target


@pytest.mark.promise("E112", "fault-D24")
def test_two_processes_one_folder(target: Path) -> None:
    """Each writes it whole or says that another does, and the last one stays."""
    context = multiprocessing.get_context("spawn")
    runs = [context.Process(target=write_folders, args=(str(target), letter)) for letter in (b"a", b"b")]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0, 0]
    assert snapshot(target) in ({f"{k}": letter * 999 for k in range(3)} for letter in (b"a", b"b"))
    assert leftovers(target.parent) == []
