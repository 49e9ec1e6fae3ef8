"""Forks, processes and threads: nothing hangs, nothing is shared that should not be, bytes stay the same."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import child, printed
from functions import FUNCTIONS, Array, Function, bits_of

import quantrim as qt

by_function = pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.name)
ROWS, COLS = 512, 768  # six times the least that wakes a thread
CALLERS, CALLS = 8, 3
if "libtsan" in os.environ.get("LD_PRELOAD", ""):  # which sees a race at once and takes fifty times as long
    ROWS, CALLERS, CALLS = 256, 2, 1

# A child that hangs is ended after five seconds and counted.
FORKS = """
import os, time
import numpy as np, quantrim as qt
w = np.linspace(-1, 1, 1 << 18, dtype=np.float32).reshape(512, 512)
want = qt.quantize(w, 4).data.tobytes()
def same(): return qt.quantize(w, 4).data.tobytes() == want and qt.prune(w, 0.5).any()
def child():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if same() else 1)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.001)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hang"
"""


@pytest.mark.promise("E107", "G14")
def test_fork_after_a_parallel_region() -> None:
    """200 times; the parent stays parallel and right."""
    count = "print([same() and child() for _ in range(200)] == [0] * 200)"
    assert printed(FORKS + count, QUANTRIM_THREADS="4") == "True"


@pytest.mark.promise("E107")
def test_fork_of_a_fork() -> None:
    code = FORKS + "same()\nif os.fork() == 0: os._exit(child())\nprint(os.wait()[1])"
    assert printed(code, QUANTRIM_THREADS="4") == "0"


@pytest.mark.promise("E108")
def test_fork_while_another_thread_computes() -> None:
    code = """
import threading
stop = threading.Event()
def work():
    while not stop.is_set():
        qt.quantize(w, 4)
workers = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in workers]
found = [child() for _ in range(60)]
stop.set()
[t.join() for t in workers]
print(found == [0] * 60, same())
"""
    assert printed(FORKS + code, QUANTRIM_THREADS="4") == "True True"


def scaled(k: int) -> bytes:
    w = np.arange(1 << 18, dtype=np.float32).reshape(512, 512) - 1000 * k
    return qt.quantize(w, 4, group_size=64).data.tobytes()


@pytest.mark.promise("E108")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str) -> None:
    want = [scaled(k) for k in range(6)]
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import multiprocessing
from test_concurrency import scaled
if __name__ == "__main__":
    scaled(0)
    with multiprocessing.get_context({method!r}).Pool(3) as pool:
        import hashlib
        print(*(hashlib.sha256(b).hexdigest() for b in pool.map(scaled, range(6))))
"""
    assert printed(code, QUANTRIM_THREADS="2").split() == [hashlib.sha256(b).hexdigest() for b in want]


def calls(f: Function, dtype: Any) -> tuple[Array, list[Any]]:
    a = f.values(1, (ROWS, COLS), dtype)
    return a, bits_of(f.call(a))


@pytest.mark.promise("E109", "G14")
@by_function
def test_eight_threads_on_one_input(f: Function) -> None:
    """Same input, different outputs, each the same bytes as alone."""
    a, want = calls(f, f.dtypes[0])
    start = threading.Barrier(CALLERS)

    def work(_: int) -> list[Any]:
        start.wait()
        return [bits_of(f.call(a)) for _ in range(CALLS)]

    with ThreadPoolExecutor(CALLERS) as pool:
        for results in pool.map(work, range(CALLERS)):
            assert results == [want] * CALLS


@pytest.mark.promise("E111")
@by_function
def test_any_number_of_threads(f: Function) -> None:
    for dtype in f.dtypes:
        for shape in ((ROWS, COLS), (1, ROWS * COLS), (ROWS * COLS // 4, 4)):
            a = f.values(2, shape, dtype)
            with qt.use_threads(1):
                want = bits_of(f.call(a))
            for n in (2, 3, 5):
                with qt.use_threads(n):
                    assert bits_of(f.call(a)) == want, (n, shape)


LONG: dict[str, Callable[[Array], Any]] = {
    "magnitude": qt.importance.magnitude,
    "l2": lambda w: qt.importance.l2(w, 0),
    "threshold": lambda w: qt.threshold(w, 0.5, mode="soft"),
    "prune": lambda w: qt.prune(w, 0.5),
    "prune-2:4": lambda w: qt.prune(w, pattern="2:4"),
    "quantize-mse": lambda w: qt.quantize(w[:400], 4, scale="mse"),
    "round_to_int": lambda w: qt.round_to_int(w, 10, rounding="stochastic"),
    "pack": lambda w: qt.pack(w.view(np.uint8) & 7, 3),
}


def lets_others_run(call: Callable[[], Any]) -> bool:
    """Whether a thread of plain Python ticks in the middle half of a long call, where the kernel runs."""
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.0005):
            ticks.append(time.perf_counter())

    def ticked_within_a_call() -> bool:
        start = time.perf_counter()
        call()
        quarter = (time.perf_counter() - start) / 4
        return any(start + quarter < t < start + 3 * quarter for t in ticks)

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        with qt.use_threads(1):
            return any(ticked_within_a_call() for _ in range(20))  # a busy machine may let the first ones pass
    finally:
        stop.set()
        ticker.join()


@pytest.mark.parametrize("name", LONG)
def test_the_gil_is_released(name: str) -> None:
    w = np.random.default_rng(0).standard_normal((4000, 4096)).astype(np.float32)
    assert lets_others_run(lambda: LONG[name](w))


def test_control_a_call_that_keeps_the_gil_is_found() -> None:
    numbers = np.random.default_rng(0).random(100_000).tolist()
    assert not lets_others_run(lambda: sorted(numbers))


@pytest.mark.promise("E113")
@pytest.mark.parametrize("call", ["quantize(w, 4)", "prune(w, 0.5)", "sparsity(w)"])
def test_import_in_a_thread_and_exit_with_one_running(call: str) -> None:
    code = f"""
import threading, numpy as np
done = []
def work():
    import quantrim as qt
    w = np.ones((512, 512), np.float32)
    done.append(qt.quantize(w, 4).data.nbytes)
    while True:
        qt.{call}
thread = threading.Thread(target=work, daemon=True)
thread.start()
while not done:
    thread.join(0.01)
print(done)
"""
    for _ in range(3):
        result = child(code, QUANTRIM_THREADS="3")
        assert (result.returncode, result.stdout, result.stderr) == (0, "[131072]\n", "")


@pytest.mark.promise("E113")
def test_kernels_run_while_the_interpreter_ends() -> None:
    """What ends the thread of others must not keep the one that shuts down from its lock."""
    code = """
import atexit, os, sys, threading, types, numpy as np, quantrim as qt
w = np.ones((512, 512), np.float32)
class Last:  # goes when modules are cleared, after the interpreter has begun to end threads
    def __del__(self, prune=qt.prune, w=w, write=os.write):
        write(1, b"%d\\n" % np.count_nonzero(prune(w, 0.5)))
def forever():
    while True:
        qt.prune(w, 0.5)
for _ in range(3):
    threading.Thread(target=forever, daemon=True).start()
kept = types.ModuleType("kept")
kept.last = Last()
sys.modules["kept"] = kept
del kept
atexit.register(lambda: print(qt.sparsity(qt.prune(w, 0.25)), flush=True))
"""
    assert printed(code, QUANTRIM_THREADS="2").split() == ["0.25", "131072"]
