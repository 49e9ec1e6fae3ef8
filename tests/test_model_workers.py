"""The pool of threads: results in order, the first error, nothing at work when it is left."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from model_helpers import save, small_model

import quantrim as qt
from quantrim.files.disk.writer import FileWriter
from quantrim.model import compress
from quantrim.model.streaming import chunks
from quantrim.model.streaming.workers import Buffers, Workers


def test_results_come_in_order_and_few_wait() -> None:
    made = 0

    def job(number: int) -> int:
        time.sleep(0.002 if number % 3 else 0.0)
        return number

    def jobs() -> object:
        nonlocal made
        for number in range(100):
            made += 1
            yield partial(job, number)

    with Workers(3) as workers:
        for expected, found in enumerate(workers.run(jobs())):  # type: ignore[arg-type]
            assert found == expected
            assert made <= expected + 8


@pytest.mark.promise("A1")
def test_the_first_error_in_order_is_raised() -> None:
    def job(number: int) -> None:
        if number in (3, 5):
            time.sleep(0.05 if number == 3 else 0)
            raise ValueError(f"number {number}")

    with Workers(4) as workers, pytest.raises(ValueError, match="number 3"):
        list(workers.run(partial(job, number) for number in range(10)))


def test_nothing_runs_when_the_pool_is_left() -> None:
    running = threading.Event()
    ended = False

    def job() -> None:
        nonlocal ended
        running.set()
        time.sleep(0.1)
        ended = True

    with pytest.raises(RuntimeError), Workers(1) as workers:
        for _ in workers.run([lambda: None, job, lambda: None, lambda: None]):
            running.wait(5)
            raise RuntimeError
    assert ended


def test_results_that_nobody_wants_are_dropped() -> None:
    with Workers(2) as workers:
        assert next(iter(workers.run(partial(int, number) for number in range(50)))) == 0
        assert list(workers.run(partial(int, number) for number in range(9))) == list(range(9))


@pytest.mark.promise("C55")
def test_no_thread_writes_after_its_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a closed descriptor may be that of another file by then."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 10)
    pwrite, abandon = FileWriter.pwrite, FileWriter._abandon
    writing, seen = 0, []

    def slow(self: FileWriter, data: object, offset: int) -> None:
        nonlocal writing
        writing += 1
        time.sleep(0.01)
        pwrite(self, data, offset)  # type: ignore[arg-type]
        writing -= 1

    def closed(self: FileWriter) -> None:
        seen.append(writing)
        abandon(self)

    def stop(done: int, total: int, name: str) -> None:
        if done:
            raise RuntimeError

    monkeypatch.setattr(FileWriter, "pwrite", slow)
    monkeypatch.setattr(FileWriter, "_abandon", closed)
    source = save(tmp_path / "m.safetensors", small_model())
    with qt.use_threads(4), pytest.raises(RuntimeError):
        compress(source, tmp_path / "t.safetensors", progress=stop)
    assert seen and not any(seen)


@pytest.mark.promise("E110", "fault-D28")
def test_kernels_of_workers_are_single_threaded_and_no_others() -> None:
    """Workers compute as the thread that made them, in its block; what other threads see stays as it was."""
    started, ended = threading.Barrier(3), threading.Barrier(3)

    def seen() -> tuple[str, int]:
        started.wait(60)
        ended.wait(60)
        return qt.backend.current_isa(), qt.backend.current_threads()

    with ThreadPoolExecutor(1) as others, qt.use_threads(5), qt.use_isa("reference"):
        outside = others.submit(lambda: (qt.backend.current_isa(), qt.backend.current_threads())).result()
        other = others.submit(seen)
        with Workers(2) as workers:
            results = workers.run([seen, seen])
            assert list(results) == [("reference", 1)] * 2
            assert (qt.backend.current_isa(), qt.backend.current_threads()) == ("reference", 5)
        assert other.result() == outside != ("reference", 5)
    with qt.use_threads(4), pytest.raises(RuntimeError), Workers(2) as workers:
        raise RuntimeError
    assert qt.backend.current_threads() == outside[1]


def test_buffers_are_used_again_and_belong_to_a_thread() -> None:
    buffers = Buffers()
    first = buffers.get("a", (3, 4), np.dtype(np.float32))
    again = buffers.get("a", (2, 2), np.dtype(np.float16))
    assert first.ctypes.data == again.ctypes.data and again.shape == (2, 2)
    assert buffers.get("b", (3, 4), np.dtype(np.float32)).ctypes.data != first.ctypes.data
    assert buffers.get("a", (0, 4), np.dtype(np.float32)).shape == (0, 4)
    found = []
    thread = threading.Thread(target=lambda: found.append(buffers.get("a", (3, 4), np.dtype(np.float32))))
    thread.start()
    thread.join()
    assert found[0].ctypes.data != first.ctypes.data
