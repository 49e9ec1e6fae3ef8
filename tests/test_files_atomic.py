"""Files and folders appear whole or not at all, and never over what must stay."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from files_helpers import (
    NEW,
    NEW_FOLDER,
    OLD,
    OLD_FOLDER,
    Calls,
    leftovers,
    nothing_written,
    open_descriptors,
    put,
    snapshot,
    write_atomic,
    write_folder,
    write_many,
)

from quantrim.files import AtomicFile, AtomicFolder, remove_stale
from quantrim.files.disk import temporaries
from quantrim.files.disk.temporaries import PART


def temporary_name(target: str) -> str:
    return f"{temporaries._stem(Path(target))}{os.urandom(8).hex()}{PART}"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "model.safetensors"


@pytest.mark.parametrize("old", [None, OLD])
@pytest.mark.parametrize("size", [None, len(NEW)])
def test_a_file_appears_whole(target: Path, old: bytes | None, size: int | None) -> None:
    put(target, old)
    descriptors = open_descriptors()
    with AtomicFile(str(target), size) as file:
        file.pwrite(NEW[5000:], 5000)
        file.pwrite(NEW[:5000], 0)
        assert snapshot(target) == old
        assert len(leftovers(target.parent)) == 1
    assert snapshot(target) == NEW
    assert leftovers(target.parent) == [] and open_descriptors() == descriptors


def test_writing_in_sequence(target: Path) -> None:
    with AtomicFile(target, 9) as file:
        assert file.write(b"abc") == 3
        file.pwrite(b"ghi", 6)
        assert file.write(bytearray(b"def")) == 3
        assert file.write(b"") == 0
    assert target.read_bytes() == b"abcdefghi"


def test_what_can_be_written(target: Path) -> None:
    parts: list[Any] = [
        b"a", bytearray(b"b"), memoryview(b"cd"), np.arange(3, dtype=np.float32),
        np.ones((2, 2), ml_dtypes.bfloat16), np.array(7, np.uint16), np.zeros((0, 4)),
        np.frombuffer(b"read only", np.uint8),
    ]  # fmt: skip
    with AtomicFile(target) as file:
        for part in parts:
            file.write(part)
    assert target.read_bytes() == b"".join(
        bytes(p) if isinstance(p, (bytes, bytearray, memoryview)) else p.tobytes() for p in parts
    )
    for part in (np.zeros((4, 4))[:, ::2], np.zeros((4, 4)).T[1:], memoryview(b"abcd")[::2]):
        with (
            nothing_written(target),
            pytest.raises(ValueError, match="data must be C-contiguous"),
            AtomicFile(target) as file,
        ):
            file.write(part)
    with nothing_written(target), pytest.raises(TypeError), AtomicFile(target) as file:
        file.write("text")  # type: ignore[arg-type]


def test_an_empty_file(target: Path) -> None:
    with AtomicFile(target, 0):
        pass
    assert target.read_bytes() == b""


def test_a_size_must_be_filled_and_not_passed(target: Path) -> None:
    put(target, OLD)
    with (
        nothing_written(target),
        pytest.raises(ValueError, match="written whole: 9 of 10 bytes"),
        AtomicFile(target, 10) as file,
    ):
        file.write(b"123456789")
    for offset in (-1, 8, 11):
        refusal = pytest.raises(ValueError, match=f"must hold bytes {offset} to {offset + 3}; its size is 10")
        with nothing_written(target), refusal, AtomicFile(target, 10) as file:
            file.pwrite(b"123", offset)
    with pytest.raises(ValueError, match="size must be None or"):
        AtomicFile(target, -1)


def test_use_outside_the_with_block(target: Path) -> None:
    file = AtomicFile(target)
    with pytest.raises(ValueError, match="must be open for writing"):
        file.write(b"1")
    with file:
        file.write(b"1")
    with pytest.raises(ValueError, match="must be open for writing"):
        file.write(b"1")
    with pytest.raises(ValueError, match="must be entered once"), file:
        pass
    assert target.read_bytes() == b"1"


@pytest.mark.promise("D101")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_any_exception_leaves_nothing(target: Path, error: type[BaseException]) -> None:
    put(target, OLD)
    with nothing_written(target), pytest.raises(error), AtomicFile(target, len(NEW)) as file:
        file.write(NEW[:100])
        raise error


@pytest.mark.promise("D101")
def test_a_file_that_is_forgotten_leaves_nothing(target: Path) -> None:
    """An exception may come on entry to __exit__ itself; then only the collector is left to clean up."""
    put(target, OLD)
    with nothing_written(target):
        file = AtomicFile(target)
        file.__enter__()
        file.write(NEW)
        assert leftovers(target.parent)
        file._abandon()
        del file


@pytest.mark.promise("D99")
def test_the_order_of_calls(target: Path) -> None:
    with Calls() as calls:
        write_atomic(target)
    order = [name for name in calls.names if name in ("posix_fallocate", "pwrite", "fsync", "rename")]
    assert order == ["posix_fallocate", *["pwrite"] * 4, "fsync", "rename", "fsync"]
    assert "close" in calls.names[calls.names.index("fsync") : calls.names.index("rename")], (
        "close can fail: before rename"
    )


@pytest.mark.promise("D99")
def test_the_order_of_calls_of_a_folder(target: Path) -> None:
    with Calls() as calls:
        write_folder(target)
    order = [name for name in calls.names if name in ("mkdir", "pwrite", "fsync", "rename")]
    assert order == [
        "mkdir", *["pwrite", "fsync"] * 2, "mkdir", "mkdir", *["pwrite", "fsync"] * 2,
        "fsync", "fsync", "fsync", "rename", "fsync",
    ]  # fmt: skip


@pytest.mark.promise("D105")
def test_mode_is_that_of_a_new_file(target: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o777, 0)):
        before = os.umask(umask)
        try:
            write_atomic(target)
        finally:
            os.umask(before)
        assert stat.S_IMODE(target.stat().st_mode) == mode


@pytest.mark.promise("D105")
def test_a_link_is_replaced_and_not_followed(target: Path) -> None:
    other = target.with_name("other")
    put(other, OLD)
    target.symlink_to("other")
    write_atomic(target)
    assert not target.is_symlink() and snapshot(target) == NEW and snapshot(other) == OLD
    for destination in ("nowhere", target.name):
        target.unlink()
        target.symlink_to(destination)
        write_atomic(target)
        assert not target.is_symlink() and snapshot(target) == NEW


@pytest.mark.promise("D105")
def test_what_is_no_file_is_refused(target: Path) -> None:
    os.mkfifo(target.with_name("fifo"))
    target.with_name("folder").mkdir()
    target.with_name("link").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(target.with_name("socket")))
        for name, kind in {"fifo": "FIFO", "folder": "directory", "link": "FIFO", "socket": "socket"}.items():
            path = target.with_name(name)
            with (
                nothing_written(path),
                pytest.raises(ValueError, match=f"must be a file or absent, not a {kind}"),
            ):
                write_atomic(path)


@pytest.mark.promise("D105")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a device node, and replace one")
def test_a_device_is_refused(target: Path) -> None:
    try:
        os.mknod(target, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this root may not make device nodes")
    with pytest.raises(ValueError, match="not a character device"):
        write_atomic(target)
    assert stat.S_ISCHR(target.stat().st_mode)


@pytest.mark.promise("D105")
@pytest.mark.parametrize(
    "name",
    ["x" * 255, "\u00e9" * 127, "\U0001f600" * 63, "a\nb", "-rf", "\udcff", " ", "%s{}", "~", "x" * 223, "x" * 224],
)
def test_names_of_targets(target: Path, name: str) -> None:
    path = target.with_name(name)
    write_atomic(path)
    assert snapshot(path) == NEW
    stale = path.with_name(temporary_name(name))
    stale.write_bytes(b"")
    assert remove_stale(path) == [stale.name]


@pytest.mark.promise("D105")
@pytest.mark.parametrize("path", ["", ".", "..", "/", "a\0b"])
def test_paths_that_name_nothing(path: str) -> None:
    with pytest.raises(ValueError, match="must"), AtomicFile(path):
        pass
    with pytest.raises(ValueError, match="must"), AtomicFolder(path):
        pass


@pytest.mark.promise("D105")
def test_paths_too_long_or_missing(target: Path) -> None:
    for path in (target.parent / "d" / "e", target.with_name("x" * 256), Path("/" + "a/" * 3000 + "x")):
        with nothing_written(target), pytest.raises(OSError, match=r"No such file|too long") as caught:
            write_atomic(path)
        assert caught.value.filename is not None


@pytest.mark.promise("D105")
def test_directory_is_moved_during_the_write(target: Path) -> None:
    moved = target.parent.with_name("moved")
    with AtomicFile(target) as file:
        file.write(NEW)
        target.parent.rename(moved)
    assert snapshot(moved) == {target.name: NEW}


@pytest.mark.promise("D105")
def test_directory_is_removed_during_the_write(target: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, AtomicFile(target) as file:
        file.write(NEW)
        next(target.parent.iterdir()).unlink()
        target.parent.rmdir()
    assert caught.value.filename == str(target)


@pytest.mark.promise("D105")
def test_a_relative_target_stays_where_it_was(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(target.parent)
    with AtomicFile("model.safetensors") as file:
        file.write(NEW)
        monkeypatch.chdir("/")
    assert snapshot(target) == NEW
    monkeypatch.chdir(target.parent)
    with pytest.raises(ZeroDivisionError), AtomicFolder("folder") as folder:
        with folder.file("a") as file:
            file.write(NEW)
        monkeypatch.chdir("/")
        raise ZeroDivisionError
    assert snapshot(target.parent) == {target.name: NEW}


# Temporaries


@pytest.mark.promise("D98")
def test_stale_temporaries_are_removed(target: Path) -> None:
    dead = target.with_name(temporary_name(target.name))
    dead.write_bytes(OLD)
    dead_folder = target.with_name(temporary_name(target.name))
    (dead_folder / "sub").mkdir(parents=True)
    outside = target.parent.with_name("outside")
    put(outside, OLD_FOLDER)
    (dead_folder / "sub" / "link").symlink_to(outside)
    (dead_folder / "a").write_bytes(OLD)
    assert sorted(remove_stale(target)) == sorted([dead.name, dead_folder.name])
    assert list(target.parent.iterdir()) == []
    assert snapshot(outside) == OLD_FOLDER


@pytest.mark.promise("D98")
def test_what_is_not_ours_stays(target: Path) -> None:
    hexes = "0123456789abcdef"
    names = [
        f".other.{hexes}{PART}", f".{target.name}.{hexes}", f".{target.name}.{hexes[1:]}{PART}",
        f"{target.name}{PART}", f".{target.name}.{hexes.upper()}{PART}",
        f".{target.name}.{hexes}{PART}~", f".{target.name}x.{hexes}{PART}",
        f".{target.name}.x.{hexes}{PART}", f".x{target.name}.{hexes}{PART}",
        f".{target.name}.{hexes}\n{PART}",
    ]  # fmt: skip
    for name in names:
        target.with_name(name).write_bytes(b"")
    target.with_name(f".{target.name}.{hexes}{PART}").symlink_to("nowhere")
    assert remove_stale(target) == []
    assert len(list(target.parent.iterdir())) == len(names) + 1


@pytest.mark.promise("D98")
def test_temporaries_of_live_writers_stay(target: Path) -> None:
    with AtomicFile(target) as first:
        first.write(OLD)
        assert remove_stale(target) == []
        write_atomic(target)  # a second writer, whole, in the middle of the first
        assert snapshot(target) == NEW and len(leftovers(target.parent)) == 1
    assert snapshot(target) == OLD
    with AtomicFolder(target.with_name("folder")) as folder:
        assert remove_stale(folder.path) == []


@pytest.mark.promise("D98")
def test_a_lock_in_another_process(target: Path) -> None:
    name = target.with_name(temporary_name(target.name))
    code = (
        f"import fcntl, sys; file = open({str(name)!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        assert remove_stale(target) == []
        process.kill()
        process.wait()
        assert remove_stale(target) == [name.name]


@pytest.mark.promise("D98")
@pytest.mark.parametrize("write", [write_atomic, write_folder])
def test_a_temporary_is_locked_before_others_see_it(
    target: Path, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its lock it is like a dead run's: others wait so long."""
    real, swept = fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        if not swept and leftovers(target.parent):
            swept.append(threading.Thread(target=remove_stale, args=(target,)))
            swept[0].start()
            swept[0].join(0.1)
            assert swept[0].is_alive() and leftovers(target.parent)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    write(target)
    swept[0].join()
    assert snapshot(target) == (NEW if write is write_atomic else NEW_FOLDER)


def test_who_locks_the_folder_for_long_is_not_waited_for(target: Path) -> None:
    """As `flock folder quantrim ...` does."""
    fd = os.open(target.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        write_atomic(target)
    finally:
        os.close(fd)
    assert snapshot(target.parent) == {target.name: NEW}


def test_a_forked_child_removes_nothing(target: Path) -> None:
    code = f"""
import os
from quantrim.files import AtomicFile
with AtomicFile({str(target)!r}) as file:
    file.write(b"parent")
    child = os.fork()
    if child == 0:
        raise SystemExit(7)  # through __exit__, and through all that runs at exit
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert snapshot(target.parent) == {target.name: b"parent"}


def test_file_systems_without_locks_or_preallocation(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    write_atomic(target)
    write_folder(target.with_name("folder"))
    assert snapshot(target) == NEW
    stale = target.with_name(temporary_name(target.name))
    stale.write_bytes(b"")
    assert remove_stale(target) == [], "nothing is known of its owner"
    monkeypatch.delattr(os, "posix_fallocate")
    write_atomic(target)


# At once


@pytest.mark.promise("E112")
def test_two_processes_one_target(target: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(target), letter)) for letter in (b"a", b"b")]
    for writer in writers:
        writer.start()
    whole = {b"a" * (1 << 20), b"b" * (1 << 20)}
    looks = 0
    while any(writer.is_alive() for writer in writers):
        if target.exists():
            assert target.read_bytes() in whole
            looks += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert looks > 10 and snapshot(target) in whole
    assert leftovers(target.parent) == []


@pytest.mark.promise("E112")
def test_threads_one_target_and_one_file(target: Path) -> None:
    errors: list[BaseException] = []

    def run(letter: bytes) -> None:
        try:
            write_many(str(target), letter)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and target.read_bytes() in {letter * (1 << 20) for letter in (b"a", b"b", b"c")}
    with AtomicFile(target, 8 * 100_000) as file:
        threads = [
            threading.Thread(target=file.pwrite, args=(bytes([65 + i]) * 100_000, i * 100_000)) for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert target.read_bytes() == b"".join(bytes([65 + i]) * 100_000 for i in range(8))


def test_signal_handlers_are_not_touched(target: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    write_atomic(target)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
