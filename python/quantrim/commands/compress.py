"""quantrim compress: a checkpoint in, a smaller one out."""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import backend, checks
from ..files import refuse_same_file
from ..files.disk.errors import PATH_LIMIT, quote
from ..model import Plan, Report, TensorReport
from ..model import compress as compress_checkpoint
from ..model.compress import plan
from ..model.report.figures import STEPS_HEAD
from ..model.report.provenance import settings_table
from ..model.report.report import check_report_suffix
from . import progress, terminal, wording

WORST = 3  # tensors that the closing table names


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Use that many threads within this block."""
    if count is None:
        yield
    else:
        with backend.use_threads(checks.integer("--threads", count, 1, backend.MAX_THREADS)):
            yield


def run(
    source: Path, target: Path, asked: dict[str, Any], *, report: Path | None, overwrite: bool, as_json: bool
) -> None:
    check_paths(source, target, asked, report, overwrite)
    with progress.shown("compressing") as callback:
        done = compress_checkpoint(source, target, overwrite=overwrite, progress=callback, **asked)
    close(done, report, show, as_json)


def check_paths(source: Path, target: Path, asked: dict[str, Any], report: Path | None, overwrite: bool) -> None:
    """Find out before the work what must not be written."""
    refuse_occupied(source, target, overwrite)
    if report is not None:
        check_report_suffix(report)
        refuse_same_file([p for p in (source, asked.get("recipe"), asked.get("prune_data")) if p], report, "--report")
        real, real_target = Path(os.path.realpath(report)), Path(os.path.realpath(target))
        if real_target in (real, *real.parents):
            beside = f"must be beside {quote(target, PATH_LIMIT)}, not in it or in its place"
            raise ValueError(f"--report {quote(report, PATH_LIMIT)} {beside}")
        check_new_file("--report", report, overwrite)


def check_new_file(option: str, path: Path, overwrite: bool) -> None:
    """Raise ValueError where the file that an option names must not or cannot be written."""
    if path.is_dir():
        raise ValueError(f"{option} must be a file, not the folder {quote(path, PATH_LIMIT)}")
    if occupied(path) and not overwrite:
        raise ValueError(f"{option} {quote(path, PATH_LIMIT)} exists; add --overwrite to replace it")
    if not path.parent.is_dir():
        raise ValueError(f"{option} must be in a folder that exists, not {quote(path.parent, PATH_LIMIT)}")


def close(done: Report, report: Path | None, show: Callable[[Report, Console], None], as_json: bool) -> None:
    """Save the report, if one was asked for, and say what was done."""
    words = {reason: wording.worded(reason) for reason in {tensor.reason for tensor in done.tensors}}
    tensors = tuple(t if words[t.reason] == t.reason else replace(t, reason=words[t.reason]) for t in done.tensors)
    done = replace(done, notes=tuple(map(wording.worded, done.notes)), tensors=tensors)
    if report is not None:
        done.save(report)
    if as_json:
        terminal.print_json(done.as_data())
    else:
        show(done, terminal.console())


def refuse_occupied(source: Path, target: Path, overwrite: bool) -> None:
    refuse_same_file(source, target)
    if occupied(target) and not overwrite:
        raise ValueError(f"{quote(target, PATH_LIMIT)} exists; add --overwrite to replace it")


def occupied(target: Path) -> bool:
    """Tell whether something is there that would be lost; an empty folder is nothing."""
    if target.is_dir() and not target.is_symlink():
        return any(target.iterdir())
    return os.path.lexists(target)


def show(report: Report, out: Console) -> None:
    compressed = [t for t in report.tensors if t.sparsity is not None]
    worst = worst_tensors(report)
    if worst:
        rows = [_worst_row(t) for t in worst]
        title = "Furthest from the original" if len(compressed) > len(worst) else ""
        headers = ("tensor", "stored as", "SNR", "cosine", "worst error")
        terminal.print_table(out, headers, "llrrr", rows, title=title)
        terminal.print_line(out)
    if report.steps is not None:
        terminal.print_table(out, STEPS_HEAD, "lrr", [list(row) for row in report.steps.rows()])
        terminal.print_line(out)
    terminal.print_pairs(out, closing_lines(report))
    for note in report.notes:
        terminal.print_line(out, f"note: {terminal.printable(note)}", style="yellow")


def worst_tensors(report: Report) -> list[TensorReport]:
    """List the compressed tensors of the lowest SNR, the worst first."""
    known = [t for t in report.tensors if t.snr_db is not None]
    return sorted(known, key=lambda t: t.snr_db if t.snr_db is not None else math.inf)[:WORST]


def _worst_row(t: TensorReport) -> list[str]:
    snr = terminal.decibels(t.snr_db) if t.snr_db is not None else "-"
    cosine = f"{t.cosine:.6f}" if t.cosine is not None else "-"
    return [t.name, t.label, snr, cosine, terminal.number(t.worst) if t.worst is not None else "-"]


def closing_lines(report: Report) -> list[tuple[str, str]]:
    """Say what was done, in words and figures."""
    compressed = [t for t in report.tensors if t.sparsity is not None]
    done = kinds(compressed)
    copied = len(report.tensors) - len(compressed)
    before, after = terminal.size(report.source_bytes), terminal.size(report.stored_bytes)
    lines = [
        ("written", report.destination),
        ("size", f"{before} became {after}, {smaller(report.ratio)}"),
        ("tensors", ", ".join([*(f"{count} {what}" for what, count in done.items()), f"{copied} copied"])),
    ]
    weights = f"{' and '.join(done)} weights"
    if report.snr_db is not None:
        lines.append(("SNR", f"{terminal.decibels(report.snr_db)} over all {weights}"))
    if any("pruned" in t.label for t in compressed):
        lines.append(("zeros", f"{terminal.percent(report.sparsity)} of the {weights}"))
    speed = f"{terminal.size(report.source_bytes / report.seconds)}/s" if report.seconds else "-"
    lines.append(("time", f"{report.seconds:.2f} s, {speed}, {report.threads} threads"))
    return lines


def kinds(tensors: Iterable[TensorReport]) -> dict[str, int]:
    """Count what was done to tensors; those that were compressed may have been pruned before."""
    found = Counter(map(_kind, tensors))
    return {what: found[what] for what in ("compressed", "simulated", "pruned", "narrowed") if found[what]}


def _kind(t: TensorReport) -> str:
    if t.narrowed:
        return "narrowed"
    if t.bits is None:
        return "pruned"
    return "simulated" if "simulated" in t.label else "compressed"


def smaller(ratio: float) -> str:
    """Say how much smaller the result is.

    >>> smaller(3.217), smaller(0.998)
    ('3.22x smaller', 'as large as before')
    """
    return f"{ratio:.2f}x smaller" if ratio >= 1.005 else "as large as before"


def dry_run(
    source: Path, target: Path, asked: dict[str, Any], *, report: Path | None, overwrite: bool, as_json: bool
) -> None:
    if report is not None:
        raise ValueError("--report must be given without --dry-run, which writes nothing; --json prints the plan")
    refuse_same_file(source, target)
    wish = plan(source, destination=target, **asked)
    wish = replace(wish, notes=tuple(map(wording.worded, wish.notes)))
    if as_json:
        terminal.print_json(plan_data(wish))
    else:
        show_plan(wish, target, terminal.console())
    if occupied(target) and not overwrite:
        terminal.say("warning", f"{quote(target, PATH_LIMIT)} exists; to replace it will take --overwrite")


def plan_data(wish: Plan) -> dict[str, Any]:
    tensors = [
        {
            "name": t.name,
            "shape": list(t.shape),
            "dtype": t.info.dtype,
            "source_bytes": t.source_bytes,
            "stored_bytes": t.stored_bytes,
            "at_most": t.at_most,
            "label": t.label,
            "reason": wording.worded(t.reason),
        }
        for t in wish.tensors
    ]
    return {
        "source": wish.source,
        "recipe": wish.recipe.as_dict(),
        "settings": settings_table(wish.recipe),
        "source_bytes": wish.source_bytes,
        "stored_bytes": wish.stored_bytes,
        "at_most": wish.at_most,
        "ratio": wish.ratio,
        "tensors": tensors,
        "notes": list(wish.notes),
    }


def show_plan(wish: Plan, target: Path, out: Console) -> None:
    headers = ("tensor", "shape", "from", "bytes", "becomes", "bytes", "why")
    rows = [
        [
            t.name,
            terminal.shape(t.shape),
            t.info.dtype,
            terminal.size(t.source_bytes),
            "copied" if t.copied else t.label,
            f"{'<= ' if t.at_most else ''}{terminal.size(t.stored_bytes)}",
            wording.worded(t.reason),
        ]
        for t in wish.tensors
    ]
    terminal.print_table(out, headers, "lrlrlrl", rows, spare=("why", "from", "shape"))
    before, after = terminal.size(wish.source_bytes), terminal.size(wish.stored_bytes)
    most = "at most " if wish.at_most else ""
    said = f"{before} would become {most}{after} ({wish.stored_bytes:,} bytes), {smaller(wish.ratio)}"
    terminal.print_line(out, f"{said}. Nothing was written.", style="bold")
    for note in wish.notes:
        terminal.print_line(out, f"note: {terminal.printable(note)}", style="yellow")
