"""quantrim beside what its users would pick instead, and beside the machine's limit, in one interleaved run.

    python bench/peers.py                        everything; the result is kept under bench/results/
    python bench/peers.py --rows threshold --threads 1 --size 4096x11008

Each framework has a process of its own. For every row the contestants take turns, round after round, with the
limits of the memory measured once a round among them; the figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

from machine import Meter, description
from results import Result, Row, as_text, save, verdicts
from tasks import BY_NAME, TASKS
from timing import PAUSE_SECONDS
from worker import Failure, Worker

FRAMEWORKS = ("quantrim", "numpy", "torch", "numba", "onnxruntime", "ggml", "gguf", "blas")
SIZES = ("4096x11008", "1024x1024")
SLOW_RATIO, SLOW_SECONDS, SLOW_ROUNDS = (
    10,
    0.1,
    3,
)  # one this much slower than the best, and this slow, has few rounds


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(BY_NAME).replace("%", "%%")
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=list(BY_NAME), help=f"of {names}")
    parser.add_argument("--size", nargs="+", default=list(SIZES), metavar="ROWSxCOLS", help="of the float32 weights")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, len(os.sched_getaffinity(0))}))
    parser.add_argument("--frameworks", nargs="+", default=list(FRAMEWORKS), choices=FRAMEWORKS)
    parser.add_argument(
        "--offset", type=int, default=0, help="bytes that all arrays miss a multiple of 64 by (numpy: 16)"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--no-save", action="store_true", help="print only; a run of some rows or frameworks is never kept"
    )
    return parser.parse_args()


@contextmanager
def frameworks(names: list[str], most_threads: int) -> Iterator[tuple[list[Worker], dict[str, str]]]:
    """Start processes of the frameworks that can be loaded, with versions; the others are skipped aloud."""
    workers, versions = [], {}
    started = [Worker(name, most_threads) for name in names]
    try:
        for worker in started:
            found = worker.ask("versions")
            if isinstance(found, Failure):
                print(f"SKIPPED {worker.name}: {found.reason}", file=sys.stderr)
                continue
            workers.append(worker)
            versions.update(found)
        yield workers, versions
    finally:
        for worker in started:
            worker.stop()


def entrants(workers: list[Worker], task: str, *data_and_threads: int) -> list[tuple[Worker, int, str]]:
    """List (worker, number, name) of everybody who does this task rightly; ours first."""
    found = []
    for worker in workers:
        prepared = worker.ask("prepare", task, *data_and_threads)
        if isinstance(prepared, Failure):
            print(f"SKIPPED {worker.name} in {task!r}: {prepared.reason}", file=sys.stderr)
            continue
        for name, refused in prepared:
            if refused:
                print(f"REFUSED {worker.name} {name} in {task!r}: {refused}", file=sys.stderr)
        ready = [name for name, refused in prepared if not refused]
        found += [(worker, number, f"{worker.name} {name}") for number, name in enumerate(ready)]
    return found


def interleaved(runners: list[tuple[Worker, int, str]], meter: Meter, rounds: int) -> dict[str, list[float]]:
    """Measure seconds of each turn of each runner, by name."""
    taken: dict[str, list[float]] = {name: [] for _, _, name in runners}
    out: set[str] = set()
    for round_number in range(rounds):
        meter.sample()
        for worker, number, name in runners:
            if name in out:
                continue
            time.sleep(PAUSE_SECONDS)
            answer = worker.ask("turn", number)
            if isinstance(answer, Failure):
                print(f"DROPPED {name}: {answer.reason}", file=sys.stderr)
                out.add(name)
                continue
            taken[name].append(answer)
        if round_number + 1 == SLOW_ROUNDS:
            medians = {name: statistics.median(t) for name, t in taken.items() if t}
            fastest = min(medians.values(), default=0)
            out |= {name for name, t in medians.items() if t > max(SLOW_SECONDS, SLOW_RATIO * fastest)}
    return {name: t for name, t in taken.items() if t}


def run(workers: list[Worker], options: argparse.Namespace) -> Iterator[Row]:
    for size in options.size:
        rows, cols = map(int, size.split("x"))
        for threads in options.threads:
            for task in TASKS:
                if options.rows and task.name not in options.rows:
                    continue
                runners = entrants(workers, task.name, rows, cols, options.offset, threads)
                meter = Meter(4 * rows * cols, threads)
                taken = interleaved(runners, meter, options.rounds)
                moved = (task.read * rows * cols, task.written * rows * cols)
                yield Row(
                    task=task.name,
                    size=size,
                    threads=threads,
                    taken=taken,
                    limit=meter.limits().seconds(*moved),
                    limit_at_best=meter.limits(min).seconds(*moved),
                    moved=sum(moved),
                    bandwidth=meter.limits().gigabytes(),
                    noise=meter.noise(),
                )


def main() -> int:
    options = arguments()
    machine = description()
    print(f"{machine['cpu']}, {machine['cores']} cores, {date.today()}")
    found: list[Row] = []
    with frameworks(options.frameworks, max(options.threads)) as (workers, versions):
        for row in run(workers, options):
            print(row.line(), flush=True)
            found.append(row)
    about: dict[str, Any] = {
        "date": str(date.today()),
        **machine,
        "versions": versions,
        "rounds": options.rounds,
    }
    result = Result(about, found)
    print("\n" + as_text(result))
    whole = not options.rows and not options.offset and options.frameworks == list(FRAMEWORKS)
    if whole and not options.no_save:
        print("kept as", *save(result))
    return 0 if all(good for _, good in verdicts(found)) else 1


if __name__ == "__main__":
    sys.exit(main())
