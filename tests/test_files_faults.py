"""Full disks, failing calls, signals, kills at every point: the target is the old or the complete new one."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from files_helpers import (
    NEW,
    NEW_FOLDER,
    OLD,
    OLD_FOLDER,
    WRITERS,
    Calls,
    Server,
    Snapshot,
    interrupt_at_line,
    leftovers,
    open_descriptors,
    put,
    random_delays,
    snapshot,
)

from quantrim.files import AtomicFile, AtomicFolder, remove_stale
from quantrim.files.disk.writer import FileWriter

# writer -> (what stands there before, what stands there after)
CASES: dict[str, tuple[Snapshot, Snapshot]] = {
    "write_atomic": (OLD, NEW),
    "write_atomic_unsized": (None, NEW),
    "write_folder": (OLD_FOLDER, NEW_FOLDER),
    "write_naive": (OLD, NEW),
    "write_naive_folder": (OLD_FOLDER, NEW_FOLDER),
}
ATOMIC = [name for name in CASES if "naive" not in name]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "target"


def start_over(target: Path, content: Snapshot) -> None:
    shutil.rmtree(target.parent)
    target.parent.mkdir()
    put(target, content)


def kill_sweep(server: Server, target: Path, writer: str) -> tuple[int, list[str]]:
    """Kill a writer before, after and in the middle of each of its calls. Returns how often, and the faults
    found: a target neither old nor new, a next run that fails or leaves more than the target."""
    old, new = CASES[writer]
    faults = []
    start_over(target, old)
    count = server.run(writer, target, how="kill")
    assert snapshot(target) == new and 5 < count < 256
    for when in ("before", "after", "torn"):
        for at in range(1, count + 1):
            start_over(target, old)
            code = server.run(writer, target, how="kill", at=at, when=when)
            if code != -signal.SIGKILL:
                faults.append(f"{when} {at}: not killed: {code}")
            if snapshot(target) not in (old, new):
                faults.append(f"{when} {at}: the target is mixed")
            code = server.run(writer, target)
            names = sorted(path.name for path in target.parent.iterdir())
            if code or snapshot(target) != new or names != [target.name]:
                faults.append(f"{when} {at}: the next run ends with {code}, {names}")
    return 3 * count, faults


# Kills


@pytest.mark.promise("D98")
@pytest.mark.parametrize("writer", ATOMIC)
def test_killed_at_every_call(server: Server, target: Path, writer: str) -> None:
    points, faults = kill_sweep(server, target, writer)
    assert not faults
    assert points > 45


@pytest.mark.promise("D98")
@pytest.mark.parametrize("writer", ["write_naive", "write_naive_folder"])
def test_the_kill_sweep_finds_a_naive_writer(server: Server, target: Path, writer: str) -> None:
    _, faults = kill_sweep(server, target, writer)
    assert sum("mixed" in fault for fault in faults) > 5


@pytest.mark.promise("D98")
def test_killed_at_random_moments(server: Server, target: Path) -> None:
    new = NEW * 400
    start_over(target, OLD)
    durations = []
    for _ in range(3):
        begin = time.monotonic()
        assert server.run("write_slowly", target) == 0
        durations.append(time.monotonic() - begin)
    killed = 0
    for delay in random_delays(30, min(durations)):
        put(target, OLD)
        killed += server.run("write_slowly", target, delay=delay) == -signal.SIGKILL
        assert snapshot(target) in (OLD, new)
    assert killed > 10
    assert server.run("write_slowly", target) == 0
    assert snapshot(target.parent) == {target.name: new}


@pytest.mark.promise("D98")
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, to kill at real system calls")
@pytest.mark.parametrize("writer", CASES)
def test_killed_at_every_system_call(target: Path, writer: str) -> None:
    """The same without our list of Python calls: strace kills at the k-th system call of each kind."""
    old, new = CASES[writer]
    script = Path(__file__).with_name("files_helpers.py")
    faults = points = 0
    for name in (
        "pwrite64",
        "fsync",
        "fallocate",
        "flock",
        "rename",
        "renameat",
        "renameat2",
        "unlink",
        "unlinkat",
        "mkdirat",
    ):
        for at in range(1, 30):
            start_over(target, old)
            inject = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={name}"]
            inject += ["-e", f"inject={name}:signal=SIGKILL:when={at}"]
            run = subprocess.run([*inject, sys.executable, script, writer, target], capture_output=True, timeout=60)
            if run.returncode == 0:
                break
            assert run.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), run.stderr
            points += 1
            faults += snapshot(target) not in (old, new)
            remove_stale(target)
            faults += bool(leftovers(target.parent))
    assert points >= (3 if "naive" in writer else 8)
    assert (faults > 0) == ("naive" in writer)


# Ctrl-C


def interrupted(target: Path, writer: str, interrupt: Callable[[Callable[[], None]], None]) -> bool:
    """Run a writer under `interrupt`; whether it was interrupted. The target is whole and alone anyway."""
    old, new = CASES[writer]
    start_over(target, old)
    descriptors = open_descriptors()
    caught = False
    try:
        interrupt(lambda: WRITERS[writer](target))
    except KeyboardInterrupt:
        caught = True
    assert snapshot(target) in ((old, new) if caught else (new,))
    assert not leftovers(target.parent)
    assert open_descriptors() <= descriptors + 1  # of a call whose result the interrupt took away
    return caught


@pytest.mark.promise("D101")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("writer", ATOMIC)
def test_interrupted_at_every_call(target: Path, writer: str, when: str) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    def interrupt(run: Callable[[], None]) -> None:
        with Calls(at, when, stop):
            run()

    at = 1
    while interrupted(target, writer, interrupt):
        at += 1
    assert at > 15


@pytest.mark.promise("D101")
@pytest.mark.parametrize("writer", ATOMIC)
def test_interrupted_at_every_line(target: Path, writer: str) -> None:
    """Also where no system call is: between two lines, on entry to __exit__, in the middle of cleaning up."""

    def interrupt(run: Callable[[], None]) -> None:
        interrupt_at_line(at, run)

    at = 1
    while interrupted(target, writer, interrupt):
        at += 1
    assert at > 100


@pytest.mark.promise("D101")
def test_the_sweep_finds_a_writer_that_forgets_its_temporary(target: Path) -> None:
    def forgetful(run: Callable[[], None]) -> None:
        target.with_name(".target.0123456789abcdef.quantrim-part").write_bytes(NEW)
        raise KeyboardInterrupt

    with pytest.raises(AssertionError, match="quantrim-part"):
        interrupted(target, "write_atomic", forgetful)


@pytest.mark.promise("D101")
def test_ctrl_c_from_outside(target: Path) -> None:
    code = f"""
import signal
from quantrim.files import AtomicFile
signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line does
with AtomicFile({str(target)!r}) as file:
    file.write(b"1")
    print("ready", flush=True)
    while True:
        file.pwrite(bytes(1 << 24), 0)
"""
    for number in (signal.SIGINT, signal.SIGTERM):
        start_over(target, OLD)
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            assert leftovers(target.parent)
            process.send_signal(number)
            _, error = process.communicate(timeout=20)
        assert "KeyboardInterrupt" in error
        assert snapshot(target.parent) == {target.name: OLD}


# Calls that fail

CODES = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOMEM)


def failing_sweep(target: Path, writer: str, code: int) -> tuple[int, list[str]]:
    """Make each call fail once, with an error as the system gives it: without a path."""
    old, new = CASES[writer]
    faults = []
    start_over(target, old)
    with Calls() as calls:
        WRITERS[writer](target)
    names = calls.names
    last_rename = max((i for i, name in enumerate(names) if name in ("rename", "exchange")), default=-1)
    for at, name in enumerate(names, 1):
        start_over(target, old)
        descriptors = open_descriptors()
        error: BaseException | None = None

        def fail() -> None:
            raise OSError(code, os.strerror(code))

        with Calls(at, "after" if name == "close" else "before", fail):
            try:
                WRITERS[writer](target)
            except OSError as caught:
                error = caught
                if caught.errno != code or not str(caught.filename).startswith(str(target.parent)):
                    faults.append(f"{at} {name}: {caught!r} does not say where")
                if code in (errno.ENOSPC, errno.EDQUOT) and name == "pwrite" and "bytes" not in str(caught):
                    faults.append(f"{at} {name}: {caught} does not say how much")
        if snapshot(target) != (old if error else new) and not (
            error and at > last_rename + 1 and snapshot(target) == new
        ):
            faults.append(f"{at} {name}: {error!r}, yet the target is not the {'old' if error else 'new'} one")
        if leftovers(target.parent):
            remove_stale(target)
            if leftovers(target.parent) or name not in ("unlink", "rmdir", "open", "close"):
                faults.append(f"{at} {name}: left {leftovers(target.parent)}")
        if open_descriptors() != descriptors:
            faults.append(f"{at} {name}: descriptors leak")
    return len(names), faults


@pytest.mark.promise("D95", "D96")
@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("writer", ATOMIC)
@pytest.mark.filterwarnings("ignore:the replaced folder could not be removed:UserWarning")
def test_every_call_fails_once(target: Path, writer: str, code: int) -> None:
    count, faults = failing_sweep(target, writer, code)
    assert not faults
    assert count > 12


@pytest.mark.promise("D96")
def test_the_error_sweep_finds_a_naive_writer(target: Path) -> None:
    _, faults = failing_sweep(target, "write_naive", errno.EIO)
    assert any("yet the target is not the old one" in fault for fault in faults)


@pytest.mark.promise("D97")
@pytest.mark.parametrize("writer", ATOMIC)
def test_short_writes_and_interruptions(target: Path, writer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = CASES[writer]
    put(target, old)
    real = os.pwrite
    calls = 0

    def stutter(fd: int, data: memoryview, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls % 3 == 1:
            raise InterruptedError(errno.EINTR, "Interrupted system call")
        if calls % 3 == 2:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(fd, data[: 1 + len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", stutter)
    WRITERS[writer](target)
    assert calls > 30 and snapshot(target) == new


@pytest.mark.promise("D97")
def test_a_file_that_never_takes_more(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(target, OLD)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:100], at) if at < 4000 else 0)
    with pytest.raises(OSError, match="nothing was written at byte 4000"):
        WRITERS["write_atomic"](target)

    def busy(*_: Any) -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    def fail(fd: int, data: memoryview, at: int) -> int:
        if at >= 4000:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, data[:100], at)

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match="Input/output error, writing byte 4000"):
        WRITERS["write_atomic"](target)
    monkeypatch.setattr(os, "pwrite", busy)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(BlockingIOError, match="writing byte 0"):
        WRITERS["write_atomic"](target)
    assert snapshot(target.parent) == {target.name: OLD}


# Disks that are full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"this root cannot mount a tmpfs: {mount.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.promise("D95")
def test_no_space_is_known_before_the_work(small_disk: Path) -> None:
    target = small_disk / "target"
    put(target, OLD)
    before = target.stat().st_mtime_ns
    for size in (600_000, 1 << 40):
        with (
            pytest.raises(OSError, match=rf"needs {size} bytes, \d+ are free") as caught,
            AtomicFile(target, size),
        ):
            pytest.fail("the disk is too small")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(target))
    with (
        pytest.raises(OSError, match="needs 600000 bytes") as caught,
        AtomicFolder(small_disk / "f") as folder,
    ):
        with folder.file("small", 1000) as file:
            file.write(bytes(1000))
        with folder.file("large", 600_000):
            pytest.fail("the disk is too small")
    assert caught.value.filename == str(small_disk / "f" / "large")
    assert snapshot(small_disk) == {"target": OLD} and target.stat().st_mtime_ns == before


@pytest.mark.promise("D95")
@pytest.mark.parametrize("step", [1000, 4096, 100_000, 700_000])
def test_no_space_in_the_middle(small_disk: Path, step: int) -> None:
    target = small_disk / "target"
    put(target, OLD)
    with pytest.raises(OSError, match=r"needs \d+ bytes, \d+ are free") as caught, AtomicFile(target) as file:
        while True:
            file.write(bytes(step))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(target))
    assert snapshot(small_disk) == {"target": OLD}
    with AtomicFile(target, 400_000) as file:
        file.write(bytes(400_000))


@pytest.mark.promise("D95")
def test_the_small_disk_finds_a_naive_writer(small_disk: Path) -> None:
    target = small_disk / "target"
    put(target, OLD)
    with pytest.raises(OSError, match="No space left"):
        target.write_bytes(bytes(600_000))
    assert snapshot(target) != OLD


@pytest.mark.promise("D96")
def test_a_read_only_file_system(small_disk: Path) -> None:
    target = small_disk / "target"
    put(target, OLD)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for write in (WRITERS["write_atomic"], lambda path: WRITERS["write_folder"](path.with_name("folder"))):
        with pytest.raises(OSError, match="Read-only file system") as caught:
            write(target)
        assert str(caught.value.filename).startswith(str(small_disk))
    assert snapshot(small_disk) == {"target": OLD}


@pytest.mark.promise("D95")
def test_dev_full(tmp_path: Path) -> None:
    for size in (None, 5):
        writer = FileWriter(tmp_path / "name", size)
        fd = os.open("/dev/full", os.O_WRONLY)
        try:
            with pytest.raises(OSError, match=r"No space left on device: the file needs 5 bytes, \d+ are free"):
                writer._attach(fd)
                writer.write(b"12345")
        finally:
            os.close(fd)


@pytest.mark.promise("D96")
def test_file_size_limit(target: Path) -> None:
    put(target, OLD)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        for writer in ATOMIC:
            old, _ = CASES[writer]
            path = target.with_name(writer)
            put(path, old)
            with pytest.raises(OSError, match="File too large") as caught:
                WRITERS[writer](path)
            assert caught.value.errno == errno.EFBIG and str(caught.value.filename).startswith(str(path))
            assert snapshot(path) == old
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not leftovers(target.parent)


@pytest.mark.promise("D105")
def test_a_directory_without_permission() -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # every parent must be open to a user without rights
    target = folder / "target"
    put(target, OLD)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        for write in (
            WRITERS["write_atomic"],
            lambda path: WRITERS["write_folder"](path.with_name("folder")),
        ):
            with pytest.raises(PermissionError) as caught:
                write(target)
            assert str(caught.value.filename).startswith(str(folder))
    finally:
        if root:
            os.seteuid(0)
    assert snapshot(folder) == {"target": OLD}
    folder.chmod(0o755)
    shutil.rmtree(folder)


# Strange surroundings


def in_a_process(code: str) -> str:
    prologue = "import os, sys\nfrom quantrim.files import AtomicFile, AtomicFolder, open_checkpoint\n"
    run = subprocess.run([sys.executable, "-c", prologue + code], text=True, capture_output=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.promise("D102")
@pytest.mark.parametrize("closed", [(0, 1, 2), (0,), (1,), (2,), (1, 2)])
def test_closed_standard_descriptors(target: Path, closed: tuple[int, ...]) -> None:
    """With 0 to 2 closed, the next files would get their numbers, and every print would go into them."""
    code = f"""
for fd in {closed}:
    os.close(fd)
with AtomicFile({str(target)!r}) as file, AtomicFolder({str(target)!r} + ".d") as folder:
    with folder.file("x") as inner:
        try:
            print("stray")
            sys.stderr.write("stray")
            sys.stderr.flush()
        except OSError:
            pass
        for fd in {closed}:
            try:
                os.write(fd, b"stray")
            except OSError:
                continue
            os._exit(9)
        file.write(b"12345")
        inner.write(b"67890")
os._exit(0)
"""
    in_a_process(code)
    assert snapshot(target) == b"12345"
    assert snapshot(target.with_name("target.d")) == {"x": b"67890"}


@pytest.mark.promise("D105")
def test_working_directory_is_removed(target: Path) -> None:
    code = f"""
os.mkdir({str(target.parent / "d")!r})
os.chdir({str(target.parent / "d")!r})
os.rmdir({str(target.parent / "d")!r})
with AtomicFile({str(target)!r}) as file:
    file.write(b"1")
with AtomicFolder({str(target)!r} + ".d", overwrite=True) as folder:
    with folder.file("x") as file:
        file.write(b"1")
try:
    AtomicFile("relative").__enter__()
except FileNotFoundError:
    print("refused")
"""
    assert in_a_process(code) == "refused\n"
    assert sorted(path.name for path in target.parent.iterdir()) == ["target", "target.d"]


@pytest.mark.promise("D105")
def test_clock_jumps_back(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(target, OLD)
    os.utime(target, ns=(0, 0))
    for name in ("time", "monotonic", "perf_counter", "time_ns"):
        monkeypatch.setattr(time, name, lambda: -1)
    WRITERS["write_atomic"](target)
    assert snapshot(target) == NEW


@pytest.mark.promise("D105")
@pytest.mark.parametrize("write", [WRITERS["write_atomic"], WRITERS["write_folder"]])
def test_umask_777_without_root(write: Callable[[Path], None]) -> None:
    """A folder that its owner may not enter cannot be filled: an error, and nothing left."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    before = os.umask(0o777)
    try:
        if write is WRITERS["write_atomic"]:
            write(folder / "target")
        else:
            with pytest.raises(PermissionError):
                write(folder / "target")
    finally:
        os.umask(before)
        if root:
            os.seteuid(0)
    assert leftovers(folder) == []
    assert [path.name for path in folder.iterdir()] == (["target"] if write is WRITERS["write_atomic"] else [])
    shutil.rmtree(folder)
