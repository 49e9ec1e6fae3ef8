"""quantrim compress --lossless and quantrim restore: every bit kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ..model import Report, Restored, TensorReport, compress_lossless
from ..model import restore as restore_checkpoint
from . import progress, terminal
from .compress import check_paths, close, refuse_occupied, smaller

LARGEST = 5  # tensors that the closing table names


def run(
    source: Path,
    target: Path,
    asked: dict[str, Any],
    *,
    report: Path | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    if asked:
        raise ValueError(f"lossless=True must be given without {', '.join(asked)}: it changes no weight")
    if dry_run:
        raise ValueError("--lossless must be given without --dry-run: only compressing tells the size")
    check_paths(source, target, asked, report, overwrite)
    with progress.shown("compressing") as callback:
        done = compress_lossless(source, target, overwrite=overwrite, progress=callback)
    close(done, report, show, as_json)


def show(report: Report, out: Console) -> None:
    largest = sorted(report.tensors, key=lambda t: -t.source_bytes)[:LARGEST]
    if largest:
        rows = [_row(t) for t in largest]
        title = "The largest tensors" if len(report.tensors) > len(largest) else ""
        terminal.print_table(out, ("tensor", "stored as", "bytes", "becomes", "ratio"), "llrrr", rows, title=title)
        terminal.print_line(out)
    shrunk = sum(t.stored_bytes < t.source_bytes for t in report.tensors)
    before, after = terminal.size(report.source_bytes), terminal.size(report.stored_bytes)
    speed = f"{terminal.size(report.source_bytes / report.seconds)}/s" if report.seconds else "-"
    pairs = [
        ("written", report.destination),
        ("size", f"{before} became {after}, {smaller(report.ratio)}, every bit kept"),
        ("tensors", f"{shrunk} as byte planes, {len(report.tensors) - shrunk} as they were"),
        ("time", f"{report.seconds:.2f} s, {speed}, {report.threads} threads"),
    ]
    terminal.print_pairs(out, pairs)
    for note in report.notes:
        terminal.print_line(out, f"note: {terminal.printable(note)}", style="yellow")


def _row(t: TensorReport) -> list[str]:
    sizes = t.source_bytes, t.stored_bytes
    return [t.name, t.label, *map(terminal.size, sizes), ratio(*sizes)]


def ratio(before: int, after: int) -> str:
    """Say how many times smaller the result is.

    >>> ratio(300, 200), ratio(0, 0)
    ('1.50x', '-')
    """
    return f"{before / after:.2f}x" if after else "-"


def restore(source: Path, target: Path, *, overwrite: bool, as_json: bool) -> None:
    refuse_occupied(source, target, overwrite)
    with progress.shown("restoring") as callback:
        done = restore_checkpoint(source, target, overwrite=overwrite, progress=callback)
    if as_json:
        terminal.print_json(asdict(done))
    else:
        show_restored(done, terminal.console())


def show_restored(done: Restored, out: Console) -> None:
    files = f"{len(done.files)} file{'' if len(done.files) == 1 else 's'}, SHA-256 as recorded"
    speed = f"{terminal.size(done.nbytes / done.seconds)}/s" if done.seconds else "-"
    pairs = [
        ("written", done.destination),
        ("size", f"{terminal.size(done.stored_bytes)} became {terminal.size(done.nbytes)} again"),
        ("checked", files),
        ("time", f"{done.seconds:.2f} s, {speed}, {done.threads} threads"),
    ]
    terminal.print_pairs(out, pairs)
