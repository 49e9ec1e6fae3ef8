"""Who computes and with how many threads: the environment, the context managers, and what stays untouched."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from children import child, printed

import quantrim as qt
from quantrim import _core, backend, reference

KNOWN = {"x86_v2", "x86_v3", "x86_v4", "arm_neon", "reference"}
ISA = "import quantrim as qt; print(qt.backend.current_isa())"
THREADS = "import quantrim as qt; print(qt.backend.current_threads())"
AVAILABLE = len(os.sched_getaffinity(0))


# Instruction sets


def test_isas_are_ranked_and_end_with_the_reference() -> None:
    assert qt.isas()[-1] == "reference"
    assert set(qt.isas()) <= KNOWN
    assert qt.isas()[:-1] == [name for name in _core.built_isas() if name in qt.isas()]
    assert printed(ISA) == qt.isas()[0]


@pytest.mark.parametrize("isa", qt.isas())
def test_forced_by_the_environment(isa: str) -> None:
    """The name comes from the table of kernels in use itself."""
    assert printed(ISA, QUANTRIM_ISA=isa) == isa
    assert printed(ISA, QUANTRIM_ISA="") == qt.isas()[0]


@pytest.mark.parametrize("isa", qt.isas())
def test_forced_by_use_isa(isa: str) -> None:
    with qt.use_isa(isa):
        assert backend.current_isa() == isa
        assert backend.active is (reference if isa == "reference" else _core)
        assert isa in ("reference", _core.current_isa())


@pytest.mark.parametrize("isa", qt.isas())
def test_the_forced_one_runs(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Public functions call the module that is active, and no other."""
    called = []

    def spy(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def noted(*arguments: Any) -> Any:
            called.append(module)
            return original(*arguments)

        monkeypatch.setattr(module, name, noted)

    for module in (reference, _core):
        for name in ("magnitude", "quantize", "prune_lowest"):
            spy(module, name)
    w = np.ones((2, 8), np.float32)
    with qt.use_isa(isa):
        for call in (qt.importance.magnitude, qt.quantize, lambda w: qt.prune(w, 0.5)):
            call(w)
    assert called == [reference if isa == "reference" else _core] * 3


@pytest.mark.promise("F128")
@pytest.mark.parametrize("isa", ["x86_v9", "avx2", "X86_V2", " x86_v2", "x86_v2,x86_v3", "riscv", "\n"])
def test_an_absent_isa_is_an_error_that_lists_what_there_is(isa: str) -> None:
    result = child(ISA, QUANTRIM_ISA=isa)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    must = f"QUANTRIM_ISA must be an instruction set of this machine, one of {qt.isas()}"
    assert last == f"ValueError: {must}, not {isa!r}"


@pytest.mark.promise("F128")
@pytest.mark.parametrize("isa", ["arm_neon" if "x86_v2" in qt.isas() else "x86_v2", "", None, 3])
def test_use_isa_lists_what_there_is_and_changes_nothing(isa: Any) -> None:
    before = backend.current_isa()
    with pytest.raises(ValueError, match=r"name must be an instruction set of this machine, one of .*'reference'"):
        qt.use_isa(isa)
    assert backend.current_isa() == before


def test_context_managers_restore() -> None:
    isa, threads = backend.current_isa(), backend.current_threads()
    with pytest.raises(RuntimeError), qt.use_isa("reference"), qt.use_threads(5):
        assert (backend.current_isa(), backend.current_threads()) == ("reference", 5)
        with qt.use_isa(qt.isas()[0]), qt.use_threads(2):
            assert (backend.current_isa(), backend.current_threads()) == (qt.isas()[0], 2)
        assert (backend.current_isa(), backend.current_threads()) == ("reference", 5)
        raise RuntimeError
    assert (backend.current_isa(), backend.current_threads()) == (isa, threads)


def test_without_with_the_choice_stays() -> None:
    code = "qt.use_isa('reference'); qt.use_threads(7); print(qt.backend.current_isa(), qt.backend.current_threads())"
    assert printed("import quantrim as qt;" + code) == "reference 7"


@pytest.mark.promise("fault-D28")
def test_blocks_that_overlap_in_threads_are_each_threads_own() -> None:
    """A enters, B enters, A leaves, B leaves: each saw its own choice and the others none of it, and none is left."""
    last = qt.isas()[-2]
    before = backend.current_isa(), backend.current_threads()
    steps = [threading.Event() for _ in range(4)]
    seen: dict[str, Any] = {}
    w = np.linspace(-1, 1, 1 << 20, dtype=np.float32).reshape(1024, 1024)

    def a() -> None:
        with qt.use_isa("reference"), qt.use_threads(3):
            steps[0].set()
            steps[1].wait(60)
            seen["a"] = backend.current_isa(), backend.current_threads(), backend.active is reference
        seen["a after"] = backend.current_isa(), backend.current_threads()
        steps[2].set()

    def b() -> None:
        steps[0].wait(60)
        with qt.use_isa(last), qt.use_threads(2):
            steps[1].set()
            steps[2].wait(60)
            seen["b"] = backend.current_isa(), backend.current_threads(), backend.active is reference
            seen["codes"] = qt.quantize(w, 4).data
            steps[3].wait(60)
        seen["b after"] = backend.current_isa(), backend.current_threads()

    threads = [threading.Thread(target=f) for f in (a, b)]
    for thread in threads:
        thread.start()
    steps[2].wait(60)
    assert (backend.current_isa(), backend.current_threads()) == before
    steps[3].set()
    for thread in threads:
        thread.join()
    assert seen.pop("codes").tobytes() == qt.quantize(w, 4).data.tobytes()
    assert seen == {
        "a": ("reference", 3, True),
        "a after": before,
        "b": (last, 2, False),
        "b after": before,
    }


@pytest.mark.promise("fault-D28")
def test_blocks_give_back_what_they_changed_and_no_more() -> None:
    before = backend.current_isa(), backend.current_threads()
    with qt.use_threads(2) as again, again:
        assert backend.current_threads() == 2
    assert backend.current_threads() == before[1]
    with qt.use_isa("reference"):
        kept = qt.use_threads(3)
    assert (backend.current_isa(), backend.current_threads()) == (before[0], 3)
    qt.use_threads(5)
    with kept:
        assert backend.current_threads() == 3
    assert (backend.current_isa(), backend.current_threads()) == before


@pytest.mark.promise("fault-D28")
def test_tasks_have_their_own_choice() -> None:
    """asyncio's tasks take turns in one thread: each keeps its own, blocks and plain calls alike."""
    before, plain = backend.current_threads(), backend.current_threads() % 7 + 1

    async def block(n: int) -> list[int]:
        seen = []
        with qt.use_threads(n):
            for _ in range(3):
                await asyncio.sleep(0)
                seen += [backend.current_threads(), _core.current_threads()]
        return seen

    async def call() -> int:
        qt.use_threads(plain)
        await asyncio.sleep(0)
        return backend.current_threads()

    async def together() -> Any:
        return await asyncio.gather(block(3), call(), block(4))

    assert asyncio.run(together()) == [[3] * 6, plain, [4] * 6]
    assert backend.current_threads() == before


@pytest.mark.promise("fault-D28")
def test_a_plain_call_is_the_calling_threads_alone() -> None:
    """Another thread begins with what the environment says; a context that is handed on takes the choice along."""
    code = """
import contextvars, threading, quantrim as qt
def elsewhere(call):
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]
qt.use_threads(7)
print(qt.backend.current_threads(), elsewhere(qt.backend.current_threads))
print(elsewhere(lambda c=contextvars.copy_context(): c.run(qt.backend.current_threads)))
elsewhere(lambda: qt.use_threads(6))
print(qt.backend.current_threads(), elsewhere(qt.backend.current_threads))
print(elsewhere(lambda c=qt.backend.as_here(threads=2): [c(), qt.backend.current_threads()][1]))
"""
    assert printed(code, QUANTRIM_THREADS="4").split("\n") == ["7 4", "7", "7 4", "2"]


@pytest.mark.promise("fault-D28")
def test_threads_of_a_kernel_compute_as_the_calling_thread() -> None:
    """The slices of one call, too, by its instruction set alone; limits of one thread do not bind another."""
    w = np.random.default_rng(0).standard_normal((512, 4096)).astype(np.float32)
    want = qt.importance.l2(w, 0).tobytes()
    stop = threading.Event()
    wrong: list[int] = []

    def disturb() -> None:
        while not stop.is_set():
            for n in (1, 5):
                with qt.use_threads(n), qt.use_isa(qt.isas()[-2]):
                    if backend.current_threads() != n:
                        wrong.append(n)
                    qt.use_threads(n)

    worker = threading.Thread(target=disturb)
    worker.start()
    try:
        with qt.use_threads(3):
            assert all(qt.importance.l2(w, 0).tobytes() == want for _ in range(50))
            assert backend.current_threads() == 3
    finally:
        stop.set()
        worker.join()
    assert not wrong


@pytest.mark.promise("fault-D28")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_of_a_block_goes_on_in_it() -> None:
    code = """
import os, quantrim as qt
with qt.use_threads(3), qt.use_isa("reference"):
    if os.fork() == 0:
        with qt.use_threads(2):
            print(qt.backend.current_threads(), qt.backend.current_isa(), flush=True)
        os._exit(0)
    os.wait()
"""
    assert printed(code) == "2 reference"


# Threads


@pytest.mark.promise("B45")
@pytest.mark.parametrize("count", ["1", "3", "1024"])
def test_threads_by_the_environment(count: str) -> None:
    assert printed(THREADS, QUANTRIM_THREADS=count, OMP_NUM_THREADS="2") == count


@pytest.mark.promise("B45")
@pytest.mark.parametrize("count", ["0", "-1", "abc", "1.5", "1025", "1000000", "1e3", " ", "9" * 40])
def test_bad_threads_in_the_environment(count: str) -> None:
    result = child(THREADS, QUANTRIM_THREADS=count)
    assert result.returncode == 1
    assert "ValueError: QUANTRIM_THREADS must be an integer of 1..1024, not" in result.stderr


@pytest.mark.promise("B45", "F128")
@pytest.mark.parametrize("name,value", [("QUANTRIM_THREADS", "abc"), ("QUANTRIM_ISA", "x86_v9")])
def test_nothing_computes_in_a_bad_environment(name: str, value: str) -> None:
    """Each use is a ValueError; neither a default nor an AttributeError takes its place."""
    code = """
import numpy as np, quantrim as qt
w = np.ones((2, 8), np.float32)
uses = [
    qt.backend.current_isa, qt.backend.current_threads, lambda: qt.use_isa("reference"), lambda: qt.use_threads(2),
    lambda: qt.prune(w, 0.5), lambda: qt.quantize(w), lambda: qt.importance.share(w),
    lambda: qt.pack(w.astype("u1"), 4),
]
for use in uses:
    try:
        use()
    except ValueError as error:
        print(str(error).split()[0])
"""
    assert printed(code, **{name: value}).split() == [name] * 8


@pytest.mark.promise("B45")
@pytest.mark.parametrize("value,count", [("1", 1), ("1,4", 1), (" 1 ", 1), ("1000000", AVAILABLE), ("", AVAILABLE)])
def test_omp_num_threads(value: str, count: int) -> None:
    assert child(THREADS, OMP_NUM_THREADS=value).stdout == f"{count}\n"  # libgomp comments on an empty one


@pytest.mark.promise("B45")
@pytest.mark.parametrize("value", ["abc", "0", "-2", "1.5"])
def test_bad_omp_num_threads_is_ignored_with_a_warning(value: str) -> None:
    code = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    import quantrim as qt\n"
        "    count = qt.backend.current_threads()\n"
        "print(count, *(w.message for w in seen))"
    )
    result = child(code, OMP_NUM_THREADS=value)
    warned = f"{AVAILABLE} OMP_NUM_THREADS must be a positive integer, not {value!r}; ignored"
    assert result.stdout.strip() == warned


@pytest.mark.promise("B45")
def test_threads_follow_the_affinity() -> None:
    pinned = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert printed(pinned + THREADS) == "1"
    assert printed(pinned + THREADS, OMP_NUM_THREADS="4") == "1"
    assert printed(pinned + THREADS, QUANTRIM_THREADS="4") == "4"


@pytest.mark.promise("B45")
@pytest.mark.parametrize("n", [0, -1, 1025, 10**6, 2**40])
def test_use_threads_out_of_range(n: int) -> None:
    with pytest.raises(ValueError, match=r"n must be an integer of 1\.\.1024, not"):
        qt.use_threads(n)


@pytest.mark.promise("B45")
@pytest.mark.parametrize("n", [True, 2.0, "2", None])
def test_use_threads_of_wrong_type(n: Any) -> None:
    with pytest.raises(TypeError, match=r"n must be an integer of 1\.\.1024, not"):
        qt.use_threads(n)


# No side effects

SNAPSHOT = """
import os, signal, sys, warnings, locale, threading
import numpy as np, ml_dtypes
def rounding():
    tiny = sys.float_info.min / 2
    return tiny > 0, 1 + 2.0**-53 == 1, -1 - 2.0**-53 == -1, 1 + 3 * 2.0**-53 == 1 + 2.0**-51
def state():
    mask = os.umask(0)
    os.umask(mask)
    tasks = len(os.listdir('/proc/self/task'))
    files = sorted(os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[:-1])
    handlers = [signal.getsignal(s) for s in signal.valid_signals()]
    language = locale.setlocale(locale.LC_ALL)
    return (rounding(), dict(os.environ), os.getcwd(), mask, tasks, files, handlers, language,
            np.geterr(), list(warnings.filters), list(sys.path), sys.getrecursionlimit())
before = state()
import quantrim as qt
"""


@pytest.mark.promise("F120")
def test_import_changes_nothing() -> None:
    assert printed(SNAPSHOT + "print([a == b for a, b in zip(before, state())])") == str([True] * 12)


@pytest.mark.promise("F120")
@pytest.mark.parametrize("isa", qt.isas())
def test_calls_change_nothing(isa: str) -> None:
    """But for the threads that a parallel call starts."""
    code = """
w = np.linspace(-1, 1, 1 << 20, dtype=np.float32).reshape(1024, 1024)
q = qt.quantize(w, 4)
q.dequantize(), qt.prune(w, 0.5), qt.importance.l2(w)
after = state()
print([a == b for k, (a, b) in enumerate(zip(before, after)) if k != 4])
"""
    assert printed(SNAPSHOT + code, QUANTRIM_ISA=isa) == str([True] * 11)


# Processors that this machine is not

QEMU = shutil.which("qemu-x86_64")
LEVELS = {
    "Nehalem": ["x86_v2"],
    "IvyBridge": ["x86_v2"],
    "Haswell": ["x86_v3", "x86_v2"],
    "Haswell,-fma": ["x86_v2"],
}


@pytest.mark.promise("F116", "F119", "G15")
@pytest.mark.slow
@pytest.mark.parametrize("cpu", LEVELS)
def test_older_processors(cpu: str) -> None:
    """The right instruction sets are found, no instruction is unknown to them, and the bits agree."""
    if not QEMU or "x86_v2" not in qt.isas():
        pytest.skip("needs qemu-x86_64 (package qemu-user) on an x86 machine")
    work = """
import numpy as np, quantrim as qt, zlib
w = qt.importance.random((16, 1000), 1) - np.float32(0.5)
w16 = w.astype(np.float16)
def parts(isa):
    with qt.use_isa(isa):
        for x in (w, w16):
            yield from qt.quantize(x, 4, group_size=32, scale="mse").arrays()
            yield qt.quantize(x, 3, symmetric=False).dequantize(dtype=np.float16)
            yield qt.prune(x, 0.5)
            yield qt.prune(x, pattern="2:4")
            yield qt.importance.l2(x, 0)
print(qt.isas(), {zlib.crc32(b"".join(p.tobytes() for p in parts(isa))) for isa in qt.isas()[:-1]})
"""
    isas, sums = printed(work, limit=300, command=(QEMU, "-cpu", cpu)).split("] ")
    assert isas + "]" == str([*LEVELS[cpu], "reference"])
    assert sums == printed(work).split("] ")[1]
    refused = child(ISA, limit=300, command=(QEMU, "-cpu", cpu), QUANTRIM_ISA="x86_v4")
    assert f"QUANTRIM_ISA must be an instruction set of this machine, one of {isas}]" in refused.stderr
