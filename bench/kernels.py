"""Every kernel on every instruction set of this machine: tests/cases.py decides what there is.

    python bench/kernels.py                      all cases, float32, 1024 x 4096, one thread
    python bench/kernels.py threshold quantize-4 --dtype bfloat16

Prints milliseconds, GB/s of bytes read and written, and the speed over the next narrower instruction set. A
wider one that is slower is marked, and makes the exit code 1: it is a bug.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from machine import cpu_name
from timing import turn

import quantrim as qt
from quantrim import backend

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from cases import CASES, DTYPES, Case, Out

NOISE = 0.92  # of the narrower one's speed: below this a wider instruction set counts as slower
CONFIRMING = 3  # times the rounds before it is said so


@dataclass(frozen=True)
class Timed:
    """seconds by instruction set, widest first; moved: bytes read and written."""

    case: str
    seconds: dict[str, float]
    moved: int

    def speedups(self) -> dict[str, float]:
        """Return the speed of each compiled instruction set over the next narrower one."""
        compiled = [isa for isa in self.seconds if isa != "reference"]
        return {wide: self.seconds[narrow] / self.seconds[wide] for wide, narrow in itertools.pairwise(compiled)}

    def slower(self) -> list[str]:
        """List instruction sets that lose to a narrower one.

        >>> Timed("x", {"wide": 2.0, "middle": 1.0, "narrow": 1.5}, 0).slower()
        ['wide']
        """
        return [isa for isa, speedup in self.speedups().items() if speedup < NOISE]


def prepared(case: Case, rows: int, cols: int, dtype: str) -> tuple[Any, ...]:
    """Make the arguments of a case, with their outputs in place."""
    cols = -(-cols // case.multiple) * case.multiple
    args = case.args(np.random.default_rng(0), rows, cols, DTYPES[dtype])
    return tuple(np.zeros(a.shape, a.dtype) if isinstance(a, Out) else a for a in args)


def timed(case: Case, isas: list[str], rows: int, cols: int, dtype: str, rounds: int) -> Timed:
    """Measure medians over rounds in which the instruction sets take turns; more where a wider one seems slower."""
    args = prepared(case, rows, cols, dtype)
    arrays = [a for arg in args for a in (arg if isinstance(arg, list) else [arg]) if isinstance(a, np.ndarray)]
    moved = sum({id(a): a.nbytes for a in arrays}.values())
    taken: dict[str, list[float]] = {isa: [] for isa in isas}
    for attempt in (rounds, CONFIRMING * rounds):
        for _ in range(attempt):
            for isa in isas:
                with qt.use_isa(isa):
                    taken[isa].append(turn(partial(getattr(backend.active, case.function), *args)))
        result = Timed(case.name, {isa: statistics.median(t) for isa, t in taken.items()}, moved)
        if not result.slower():
            break
    return result


def line(result: Timed) -> str:
    cells = [f"{result.case:<32}"]
    speedups = result.speedups()
    for isa, seconds in result.seconds.items():
        over = f"x{speedups[isa]:.2f}" if isa in speedups else ""
        cells.append(f"{seconds * 1e3:9.3f} {result.moved / seconds / 1e9:6.1f} {over:6}")
    if result.slower():
        cells.append("SLOWER THAN NARROWER: " + ", ".join(result.slower()))
    return " ".join(cells)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases or kernels; all where none is given")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--cols", type=int, default=4096)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--reference", action="store_true", help="time the numpy reference as well")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    unknown = set(options.names) - {c.name for c in CASES} - {c.function for c in CASES}
    if unknown:
        print(
            f"NAME must be a case or a kernel of tests/cases.py, not {', '.join(sorted(unknown))}",
            file=sys.stderr,
        )
        return 2
    isas = [isa for isa in qt.isas() if options.reference or isa != "reference"]
    qt.use_threads(options.threads)
    print(
        f"{cpu_name()}, {options.rows} x {options.cols} {options.dtype}, {options.threads} threads:"
        " ms, GB/s, speed over the next narrower"
    )
    print(f"{'':32} " + " ".join(f"{isa:>23}" for isa in isas))
    slower = 0
    for case in CASES:
        if options.names and not {case.name, case.function} & set(options.names):
            continue
        if options.dtype != "float32" and not case.typed:
            continue
        result = timed(case, isas, options.rows, options.cols, options.dtype, options.rounds)
        print(line(result), flush=True)
        slower += bool(result.slower())
    print(f"{slower} cases where a wider instruction set is slower")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
