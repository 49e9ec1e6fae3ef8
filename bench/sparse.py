"""Products with sparse weights beside dense ones: from which sparsity on each layout wins.

    python bench/sparse.py                        1024 x 1024 and 4096 x 11008, one thread and all
    python bench/sparse.py --size 1024x1024 --threads 1 --values float32 --batch 1 16

Prints milliseconds of y = x @ w.T for float32 x, medians over rounds in which the contestants take turns: numpy's
dense product of float32 weights (its BLAS, on as many threads), for codes also the time to restore them and multiply;
then each layout with its bits per weight. The fastest of a row is marked; a last line per table says where each layout
begins to win over numpy.
"""

from __future__ import annotations

import os
import sys

if "--threads" in sys.argv:  # BLAS reads it when numpy is imported
    os.environ["OPENBLAS_NUM_THREADS"] = sys.argv[sys.argv.index("--threads") + 1]

import argparse
import statistics
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from machine import cpu_name
from timing import turn

import quantrim as qt

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
VALUES = {"float32": None, "int8": 8, "int4": 4}
PATTERNS = {0.5: "2:4"}  # by sparsity
ROUNDS = 7
GROUP = 32

Call = Callable[[], object]


def contestants(w: Any, x: Any, values: str, sparsity: float) -> dict[str, tuple[Call, float]]:
    """List what to time, with bits per weight."""
    bits = VALUES[values]
    weights = qt.quantize(w, bits, group_size=GROUP) if bits else w
    dense = weights.dequantize() if bits else w
    calls: dict[str, tuple[Call, float]] = {"numpy": (lambda: x @ dense.T, 32.0)}
    if bits:
        into = np.empty_like(dense)
        calls["restored"] = (lambda: x @ qt.dequantize(weights, out=into).T, weights.bits_per_weight)
    layouts = ["bitmask", "csr"]
    if sparsity in PATTERNS:
        layouts.append(PATTERNS[sparsity])
    for layout in layouts:
        if ":" in layout:
            pruned = qt.prune(w, pattern=layout)
            s = qt.sparse.from_dense(qt.quantize(pruned, bits, group_size=GROUP) if bits else pruned, layout)
        else:
            s = qt.sparse.from_dense(weights, layout)
        calls[layout] = (partial(s.matmul, x.T), s.bits_per_weight)
    return calls


def medians(calls: dict[str, tuple[Call, float]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, (call, _) in calls.items():
            taken[name].append(turn(call))
    return {name: 1e3 * statistics.median(t) for name, t in taken.items()}


def table(rows: int, cols: int, values: str, batch: int, threads: int) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((rows, cols), dtype=np.float32)
    x = rng.standard_normal((batch, cols), dtype=np.float32)
    x = x[0] if batch == 1 else x
    print(f"\n{rows} x {cols} {values}, batch {batch}, {threads} threads: ms (bits per weight)")
    wins: dict[str, float] = {}
    for sparsity in SPARSITIES:
        calls = contestants(np.asarray(qt.prune(w, sparsity)), x, values, sparsity)
        taken = medians(calls)
        best = min(taken, key=lambda name: taken[name])
        cells = [f"{n} {t:8.3f}{'*' if n == best else ' '}({calls[n][1]:5.2f})" for n, t in taken.items()]
        print(f"  {sparsity:4.2f}  " + "  ".join(cells), flush=True)
        for name, t in taken.items():
            if t < taken["numpy"]:
                wins.setdefault(name, sparsity)
            else:
                wins.pop(name, None)
    print("  wins over numpy from: " + ", ".join(f"{name} {s}" for name, s in wins.items()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="*", default=["1024x1024", "4096x11008"], metavar="ROWSxCOLS")
    parser.add_argument("--values", nargs="*", default=list(VALUES), choices=list(VALUES))
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, help="all numbers up to the processors, one process each")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.threads is None:
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            subprocess.run([sys.executable, *sys.argv, "--threads", str(threads)], check=True)
        return 0
    qt.use_threads(options.threads)
    print(f"{cpu_name()}, {qt.backend.current_isa()}")
    for size in options.size:
        rows, cols = map(int, size.split("x"))
        for values in options.values:
            for batch in options.batch:
                table(rows, cols, values, batch, options.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
