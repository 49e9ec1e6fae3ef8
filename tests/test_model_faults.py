"""compress killed, interrupted, and out of space: the target is the old or the complete new one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from files_helpers import Snapshot, leftovers, nothing_written, put, random_delays, snapshot
from model_helpers import save, save_folder, small_model, sparse_checkpoint
from model_killed import CompressServer

from quantrim.files.disk.writer import FileWriter
from quantrim.model import compress, compress_lossless
from quantrim.model.streaming import chunks

KILLED = (
    *("compress_file", "compress_folder", "compress_sparse"),
    *("lossless_folder", "restore_folder", "decompress_folder"),
)
OLD: dict[str, Snapshot] = {
    "compress_file": b"old" * 5000,
    "compress_in_place": b"old" * 5000,
    "compress_sparse": b"old" * 5000,
    "compress_folder": {"model.safetensors": b"old" * 5000, "notes.txt": b"mine"},
    "lossless_folder": {"notes.txt": b"mine"},
    "restore_folder": {"notes.txt": b"mine"},
    "decompress_folder": {"notes.txt": b"mine"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[CompressServer]:
    server = CompressServer()
    yield server
    server.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The place of a target beside its sources."""
    save(tmp_path / "source.safetensors", small_model())
    save_folder(tmp_path / "source", small_model())
    compress_lossless(tmp_path / "source", tmp_path / "planes")
    compress(tmp_path / "source", tmp_path / "small", bits=4, group_size=16)
    return tmp_path / "target.safetensors"


def finished(server: CompressServer, writer: str, target: Path) -> Snapshot:
    """What the writer leaves when it is let be."""
    assert server.run(writer, target) == 0
    new = snapshot(target)
    assert new not in (None, OLD[writer])
    return new


def start_over(target: Path, content: Snapshot) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    put(target, content)


def faults_when_killed(
    server: CompressServer, writer: str, target: Path, new: Snapshot, at: int, when: str
) -> list[str]:
    old = OLD[writer]
    start_over(target, old)
    faults = []
    if server.run(writer, target, how="kill", at=at, when=when) != -signal.SIGKILL:
        faults.append(f"{when} {at}: not killed")
    if snapshot(target) not in (old, new):
        faults.append(f"{when} {at}: mixed")
    if server.run(writer, target) != 0 or snapshot(target) != new:
        faults.append(f"{when} {at}: the next run failed")
    if leftovers(target.parent):
        faults.append(f"{when} {at}: leftovers {leftovers(target.parent)}")
    return faults


def sweep(server: CompressServer, writer: str, target: Path, step: int) -> tuple[int, list[str]]:
    """Kill at every `step`-th call; how often, and what was wrong then."""
    if writer.endswith("folder"):
        target = target.with_name("target")
    new = finished(server, writer, target)
    start_over(target, OLD[writer])
    count = server.run(writer, target, how="kill")  # which calls all of them, and says how many
    assert 30 < count < 256
    faults, points = [], 0
    for when in ("before", "after", "torn"):
        for at in range(1, count + 1, step):
            faults += faults_when_killed(server, writer, target, new, at, when)
            points += 1
    return points, faults


@pytest.mark.promise("D98", "D100")
@pytest.mark.parametrize("writer", KILLED)
def test_killed_at_some_calls(server: CompressServer, target: Path, writer: str) -> None:
    points, faults = sweep(server, writer, target, 15)
    assert points > 10 and not faults


@pytest.mark.promise("D98", "D100")
@pytest.mark.slow
@pytest.mark.parametrize("writer", KILLED)
def test_killed_at_every_call(server: CompressServer, target: Path, writer: str) -> None:
    """Every other call of those that write as the first does."""
    points, faults = sweep(server, writer, target, 1 if writer == KILLED[0] else 2)
    assert points > 100 and not faults


@pytest.mark.promise("D98")
def test_the_sweep_finds_a_writer_in_place(server: CompressServer, target: Path) -> None:
    finished(server, "compress_in_place", target)
    _, faults = sweep(server, "compress_in_place", target, 3)
    assert sum("mixed" in fault for fault in faults) > 5


@pytest.mark.promise("D98")
@pytest.mark.slow
@pytest.mark.parametrize("writer", ["compress_file", "compress_folder"])
def test_killed_at_random_moments(server: CompressServer, target: Path, writer: str) -> None:
    if writer == "compress_folder":
        target = target.with_name("target")
    new = finished(server, writer, target)
    took = []
    for _ in range(3):
        begin = time.monotonic()
        assert server.run(writer, target) == 0
        took.append(time.monotonic() - begin)
    killed = 0
    for delay in random_delays(500, min(took)):  # some runs are over before they are killed
        start_over(target, OLD[writer])
        killed += server.run(writer, target, delay=delay) == -signal.SIGKILL
        assert snapshot(target) in (OLD[writer], new)
        if killed == 100:
            break
    assert killed == 100
    assert server.run(writer, target) == 0 and snapshot(target) == new
    assert leftovers(target.parent) == []


# Signals

INTERRUPTED = textwrap.dedent(
    """
    import sys, threading
    import quantrim as qt
    from quantrim.model.streaming import chunks

    def progress(done, total, name):
        if done and not told:
            told.append(1)
            print("running", flush=True)

    told = []
    try:
        qt.compress(sys.argv[1], sys.argv[2], prune=0.5, overwrite=True, progress=progress)
    except KeyboardInterrupt:
        assert threading.active_count() == 1 and qt.backend.current_threads() > 1
        sys.exit(130)
    """
)


@pytest.mark.promise("D101")
@pytest.mark.parametrize("presses", [1, 5])
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.15])
def test_ctrl_c_stops_and_cleans(tmp_path: Path, presses: int, delay: float) -> None:
    """Within a fraction of a second, even where the user presses again and again."""
    entries = [(f"{k}.weight", "F32", [8192, 4096]) for k in range(12)]
    source, target = (
        sparse_checkpoint(tmp_path / "source.safetensors", entries),
        tmp_path / "target.safetensors",
    )
    target.write_bytes(b"old")
    command = [sys.executable, "-c", INTERRUPTED, str(source), str(target)]
    environment = os.environ | {"QUANTRIM_THREADS": "2"}
    with (
        nothing_written(target),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run,
    ):
        assert run.stdout is not None and run.stdout.readline() == "running\n"
        time.sleep(delay)
        begin = time.monotonic()
        run.send_signal(signal.SIGINT)
        if presses == 1:
            assert run.wait(10) == 130
        for _ in range(presses - 1):
            time.sleep(0.001)
            if run.poll() is None:
                run.send_signal(signal.SIGINT)
        assert run.wait(10) in ((130,) if presses == 1 else (130, 1, -signal.SIGINT))
        # the kernels in hand end first, and the interpreter; a loaded machine takes its time
        assert time.monotonic() - begin < 8


# Errors of the system


@pytest.mark.promise("D95")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_full_disk_leaves_nothing(target: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = (target.parent / "source.safetensors", target) if kind == "file" else (
        target.parent / "source",
        target.parent / "target",
    )  # fmt: skip
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 12)
    real, calls = FileWriter.pwrite, 0

    def full(self: FileWriter, data: object, offset: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 25:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(self.path))
        real(self, data, offset)  # type: ignore[arg-type]

    monkeypatch.setattr(FileWriter, "pwrite", full)
    with nothing_written(target), pytest.raises(OSError, match="No space left") as caught:
        compress(source, target)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.promise("D96")
def test_a_folder_that_may_not_be_written(target: Path) -> None:
    absent = target.parent / "absent" / "target.safetensors"
    with pytest.raises(FileNotFoundError):
        compress(target.parent / "source.safetensors", absent)


@pytest.mark.promise("D103")
def test_no_memory_for_a_chunk(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantrim.model.streaming import workers

    monkeypatch.setattr(workers.np, "empty", lambda *_: (_ for _ in ()).throw(MemoryError))
    with nothing_written(target), pytest.raises(MemoryError):
        compress(target.parent / "source.safetensors", target)
