"""Folders appear whole or not at all, and are replaced only when asked."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path
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
    write_folder_aside,
    write_folders,
)

from quantrim.files import AtomicFolder, atomic, remove_stale, temporaries
from quantrim.files.temporaries import PART, exchange, open_directory, temporary_name


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


@pytest.mark.parametrize("write", [write_folder, write_folder_aside])
def test_a_full_folder_is_replaced_only_when_asked(target: Path, write: Any) -> None:
    put(target, OLD_FOLDER)
    refusal = pytest.raises(ValueError, match="absent or an empty folder unless overwrite=True")
    with nothing_written(target), refusal, AtomicFolder(target):
        pytest.fail("refused before the work")
    write(target)
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


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, OLD_FOLDER])
def test_D101_any_exception_leaves_no_folder(target: Path, old: Any, error: type[BaseException]) -> None:
    put(target, old)
    with nothing_written(target), pytest.raises(error), AtomicFolder(target, overwrite=True) as folder:
        with folder.file("a") as file:
            file.write(NEW)
        folder.file("b").__enter__().write(NEW)
        raise error


def test_folders_are_exchanged_in_one_step(target: Path) -> None:
    put(target, OLD_FOLDER)
    put(target.with_name("new"), NEW_FOLDER)
    directory = open_directory(target.parent)
    try:
        if not exchange("new", target.name, directory):
            pytest.skip("this file system cannot exchange names")
        assert snapshot(target) == NEW_FOLDER and snapshot(target.with_name("new")) == OLD_FOLDER
        with pytest.raises(FileNotFoundError):
            exchange("new", "missing", directory)
    finally:
        os.close(directory)


def test_systems_without_an_exchange(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(target, OLD_FOLDER)
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    write_folder(target)
    assert snapshot(target) == NEW_FOLDER and leftovers(target.parent) == []


def test_D98_a_folder_moved_aside_comes_back(target: Path) -> None:
    aside = target.with_name(temporary_name(target.name, ".quantrim-old"))
    put(aside, OLD_FOLDER)
    assert remove_stale(target) == [aside.name]
    assert snapshot(target) == OLD_FOLDER
    put(aside, NEW_FOLDER)
    assert remove_stale(target) == [aside.name], "the target is there: what was moved aside is garbage"
    assert snapshot(target) == OLD_FOLDER and leftovers(target.parent) == []
    linked = target.with_name("linked")
    linked.symlink_to("nowhere")
    put(linked.with_name(temporary_name(linked.name, ".quantrim-old")), OLD_FOLDER)
    assert len(remove_stale(linked)) == 1 and linked.is_symlink(), "a link that leads nowhere is a target too"


def test_an_old_folder_that_cannot_be_removed_is_reported(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(target, OLD_FOLDER)
    monkeypatch.setattr(atomic, "remove", lambda *_: None)
    with pytest.warns(UserWarning, match="could not be removed whole"):
        write_folder(target)
    assert snapshot(target) == NEW_FOLDER
    assert [snapshot(target.with_name(name)) for name in leftovers(target.parent)] == [OLD_FOLDER]


# Two runs on one target


def test_D24_a_temporary_that_another_run_removes_at_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its making and its lock it looks like a dead run's."""
    real, removed = temporaries.open_above_stdio, 0

    def open_late(path: Any, *args: Any, **kwargs: Any) -> int:
        nonlocal removed
        if str(path).endswith(PART) and "dir_fd" in kwargs and removed < 3:
            removed += 1
            os.rmdir(path, dir_fd=kwargs["dir_fd"])
        return real(path, *args, **kwargs)

    monkeypatch.setattr(temporaries, "open_above_stdio", open_late)
    write_folder(target)
    assert removed == 3 and snapshot(target) == NEW_FOLDER and leftovers(target.parent) == []


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("times", [2, 10**6])
def test_D24_another_run_is_quicker(target: Path, monkeypatch: pytest.MonkeyPatch, swap: bool, times: int) -> None:
    """It puts its own folder there, or takes ours away, just before each step: where locks do not keep it out."""
    put(target, OLD_FOLDER)
    rename, count = temporaries.Temporary.rename, 0

    def occupied(self: temporaries.Temporary) -> None:
        nonlocal count
        count += 1
        if count <= times:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        rename(self)

    def gone(*names: Any) -> bool:
        if not swap:
            return False
        if count <= times:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return exchange(*names)

    monkeypatch.setattr(temporaries.Temporary, "rename", occupied)
    monkeypatch.setattr(atomic, "exchange", gone)
    if times == 2:
        write_folder(target)
        assert snapshot(target) == NEW_FOLDER
    else:
        with nothing_written(target), pytest.raises(OSError, match="another run writes there"):
            write_folder(target)
    assert leftovers(target.parent) == []


def test_D24_E112_two_processes_one_folder(target: Path) -> None:
    """Each writes it whole or says that another does, and the last one stays."""
    context = multiprocessing.get_context("spawn")
    for aside in (False, True):
        runs = [context.Process(target=write_folders, args=(str(target), letter, aside)) for letter in (b"a", b"b")]
        for run in runs:
            run.start()
        for run in runs:
            run.join(120)
        assert [run.exitcode for run in runs] == [0, 0]
        found = snapshot(target)
        assert found in ({f"{k}": letter * 999 for k in range(3)} for letter in (b"a", b"b"))
        assert leftovers(target.parent) == []
