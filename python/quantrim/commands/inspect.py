"""quantrim inspect: what is in a checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ..model.report.inspect import Statistics, Summary, TensorSummary, inspect
from . import progress, terminal

STATISTICS = ("zeros", "min", "max", "rms", "histogram")


def run(path: Path, *, stats: bool, as_json: bool) -> None:
    with progress.shown("reading") as callback:
        summary = inspect(path, stats=stats, progress=callback)
    if as_json:
        terminal.print_json(as_data(summary))
    else:
        show(summary, terminal.console())


def as_data(summary: Summary) -> dict[str, Any]:
    return {
        "path": summary.path,
        "format": summary.format,
        "shards": list(summary.shards),
        "metadata": summary.metadata,
        "nbytes": summary.nbytes,
        "size": summary.size,
        "tensors": [_tensor_data(t) for t in summary.tensors],
        "notes": list(summary.notes),
    }


def _tensor_data(tensor: TensorSummary) -> dict[str, Any]:
    data = {**asdict(tensor), "bits_per_weight": tensor.bits_per_weight}
    stats = data.pop("statistics")
    if tensor.statistics is None:
        return data
    return {**data, "sparsity": tensor.statistics.sparsity, **stats}


def show(summary: Summary, out: Console) -> None:
    stats = any(t.statistics for t in summary.tensors)
    headers, align = ["tensor", "stored as", "shape", "bytes", "bits"], "llrrr"
    rows = [_row(t) for t in summary.tensors]
    if stats:
        headers, align = [*headers, *STATISTICS], align + "rrrrl"
        rows = [[*row, *_statistics(t.statistics)] for row, t in zip(rows, summary.tensors, strict=True)]
    if rows:
        spare = ("bits", "rms", "min", "max", "histogram") if stats else ()
        terminal.print_table(out, headers, align, rows, spare=spare)
    terminal.print_line(out, total_line(summary), style="bold")
    for t in summary.tensors:
        if t.statistics and t.statistics.nonfinite:
            said = f"{t.statistics.nonfinite} of {t.statistics.count} values are NaN or infinite"
            terminal.print_line(out, f"{terminal.printable(t.name)}: {said}", style="bold red")
    for note in summary.notes:
        terminal.print_line(out, f"note: {terminal.printable(note)}", style="yellow")


def _row(tensor: TensorSummary) -> list[str]:
    return [
        tensor.name,
        tensor.label,
        terminal.shape(tensor.shape),
        terminal.size(tensor.nbytes),
        f"{tensor.bits_per_weight:.3g}",
    ]


def _statistics(s: Statistics | None) -> list[str]:
    """Return a cell under each of STATISTICS, empty where a tensor holds no real numbers."""
    if s is None:
        return [""] * len(STATISTICS)
    n = terminal.number
    return [terminal.percent(s.sparsity), n(s.low), n(s.high), n(s.rms), terminal.bars(s.histogram.counts)]


def total_line(summary: Summary) -> str:
    """Count tensors, weights and bytes, in words.

    >>> total_line(Summary("m", ("m",), {}, ()))
    '0 tensors, 0 weights, 0 B'
    """
    tensors = f"{len(summary.tensors)} tensor{'' if len(summary.tensors) == 1 else 's'}"
    figures = [tensors, f"{summary.size:,} weights", terminal.size(summary.nbytes)]
    if summary.size:
        figures.append(f"{8 * summary.nbytes / summary.size:.3g} bits per weight")
    if any(t.statistics for t in summary.tensors):
        figures.append(f"{terminal.percent(summary.sparsity)} zeros")
    if summary.format:
        figures.append(summary.format)
    if len(summary.shards) > 1:
        figures.append(f"{len(summary.shards)} shards")
    return ", ".join(figures)
