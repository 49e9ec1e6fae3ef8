"""The machine: what it is called, and how fast its memory is at this moment."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import turn

SOURCE = Path(__file__).with_name("bandwidth.c")
COMPILE = ("gcc", "-O3", "-fopenmp", "-shared", "-fPIC")
# Ways to do each thing; the machine's limit is the fastest of them.
WAYS = {
    "read": ("read_plain", "read_ahead"),
    "copy": ("copy_plain",),
    "stream_copy": ("copy_stream", "copy_stream_ahead"),
    "fill": ("fill_plain",),
    "stream_fill": ("fill_stream",),
}


def aligned(shape: tuple[int, ...], dtype: Any, value: float = 0, offset: int = 0) -> NDArray[Any]:
    """Make an array full of `value`, so that its pages exist, `offset` bytes after a multiple of 64."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    a: NDArray[Any] = memory[start : start + size].view(dtype).reshape(shape)
    a[...] = value
    return a


def compiled(source: Path) -> ctypes.CDLL:
    """Compile a C file of this folder to a library, once per content, in the temporary folder of this user."""
    text = source.read_bytes()
    folder = Path(tempfile.gettempdir()) / f"quantrim-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise OSError(f"{folder} belongs to another user")
    library = folder / f"{source.stem}-{hashlib.sha256(text).hexdigest()[:16]}.so"
    if not library.exists():
        unfinished = library.with_suffix(f".{os.getpid()}.part")
        subprocess.run([*COMPILE, str(source), "-o", str(unfinished)], check=True)
        unfinished.rename(library)
    return ctypes.CDLL(str(library))


@dataclass(frozen=True)
class Limits:
    """Seconds per byte, of the fastest way to do each thing.

    `seconds` is bytes read x r + bytes written x w, with r from reading and w = copying - r. Where a kernel
    writes much more than it reads, that is less than the memory needs: filling alone is a bound as well.
    """

    read: float
    copy: float
    stream_copy: float
    fill: float
    stream_fill: float

    def seconds(self, read: float, written: float) -> float:
        w = max(0.0, min(self.copy, self.stream_copy) - self.read)
        return max(read * self.read + written * w, written * min(self.fill, self.stream_fill))

    def gigabytes(self) -> dict[str, float]:
        """Return the same as GB/s of source bytes."""
        return {name: 1e-9 / getattr(self, name) for name in WAYS}


class Meter:
    """Measures the limits for tensors of `size` bytes, one sample a round."""

    def __init__(self, size: int, threads: int) -> None:
        self._library = compiled(SOURCE)
        self._bytes = size // 4096 * 4096
        self._threads = threads
        self._from = aligned((self._bytes // 4,), np.float32, 1)
        self._to = aligned((self._bytes // 4,), np.float32)
        self._taken: dict[str, list[float]] = {way: [] for ways in WAYS.values() for way in ways}

    def sample(self) -> None:
        """Take one turn of each way."""
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (self._from, self._to)]
        for way, taken in self._taken.items():
            run = partial(getattr(self._library, way), *pointers, ctypes.c_size_t(self._bytes), self._threads)
            taken.append(turn(run))

    def noise(self) -> float:
        """Return how much longer than at its best reading took, at the median: 1 on an idle machine."""
        return statistics.median(self._taken["read_plain"]) / min(self._taken["read_plain"])

    def limits(self, of: Callable[[list[float]], float] = statistics.median) -> Limits:
        """Return the limits of the samples so far: their medians, or with `min` the machine undisturbed."""
        best = {name: min(of(self._taken[way]) for way in ways) / self._bytes for name, ways in WAYS.items()}
        return Limits(**best)


def cpu_name() -> str:
    """Return the processor's name with the numbers that tell generations of one name apart."""
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    name = found.get("model name", platform.processor() or platform.machine())
    return f"{name} (family {found.get('cpu family', '?')}, model {found.get('model', '?')})"


def compiler() -> str:
    """Return the first line of what the C compiler says of itself."""
    return subprocess.run([COMPILE[0], "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]


def description() -> dict[str, Any]:
    """Describe where a result file comes from."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": platform.platform(),
        "python": platform.python_version(),
        "compiler": compiler(),
    }


def main() -> None:
    """Print the limits of this machine."""
    print(cpu_name())
    print("GB/s of source bytes     threads " + "".join(f"{name:>13}" for name in WAYS))
    for rows, cols in ((4096, 11008), (1024, 1024)):
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            meter = Meter(4 * rows * cols, threads)
            for _ in range(7):
                meter.sample()
            rates = meter.limits().gigabytes().values()
            print(f"{rows:6} x {cols:<6} float32 {threads:9} " + "".join(f"{rate:13.1f}" for rate in rates))


if __name__ == "__main__":
    main()
