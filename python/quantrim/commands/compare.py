"""quantrim compare: how far one checkpoint is from another."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.console import Console

from ..model.report.compare import Comparison, Difference
from ..model.report.compare import compare as compare_checkpoints
from . import progress, terminal
from .outcome import NoAnswer


def run(a: Path, b: Path, *, as_json: bool) -> None:
    with progress.shown("comparing") as callback:
        comparison = compare_checkpoints(a, b, progress=callback)
    if as_json:
        terminal.print_json({"a": str(a), "b": str(b), **as_data(comparison)})
    else:
        show(comparison, terminal.console())
    if not comparison.matching:
        raise NoAnswer


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Return a table for JSON, which has no infinity: decibels of what is equal are null."""
    return {
        "matching": comparison.matching,
        "equal": comparison.equal,
        "snr_db": comparison.snr,
        "nbytes": list(comparison.nbytes),
        "missing": list(comparison.missing),
        "extra": list(comparison.extra),
        "reshaped": [{"name": name, "a": list(x), "b": list(y)} for name, x, y in comparison.reshaped],
        "tensors": [_data(d) for d in comparison.differences],
    }


def _data(d: Difference) -> dict[str, Any]:
    values = {"snr_db": d.snr, "cosine": d.cosine, "worst": d.worst, "worst_relative": d.relative}
    names = ("name", "shape", "label", "nbytes", "nonfinite", "equal")
    return {**{name: getattr(d, name) for name in names}, **values}


def show(comparison: Comparison, out: Console) -> None:
    headers = ("tensor", "A", "B", "SNR", "cosine", "worst error", "of max |A|")
    if comparison.differences:
        rows = [_row(d) for d in comparison.differences]
        terminal.print_table(out, headers, "lllrrrr", rows, spare=("A", "of max |A|", "B"))
    for label, names in (("only in A", comparison.missing), ("only in B", comparison.extra)):
        for name in names:
            terminal.print_line(out, f"{label}: {terminal.printable(name)}", style="bold red")
    for name, x, y in comparison.reshaped:
        said = f"shape {terminal.shape(x)} in A, {terminal.shape(y)} in B"
        terminal.print_line(out, f"{terminal.printable(name)}: {said}", style="bold red")
    for d in comparison.differences:
        if d.nonfinite:
            said = f"NaN or infinity in {d.nonfinite} places, not counted in the figures"
            terminal.print_line(out, f"{terminal.printable(d.name)}: {said}", style="bold red")
    terminal.print_line(out, total_line(comparison), style="bold")


def _row(d: Difference) -> list[str]:
    exact = d.equal
    return [
        d.name,
        d.label[0],
        d.label[1],
        terminal.decibels(d.snr),
        "1" if exact else f"{d.cosine:.6f}",
        terminal.number(d.worst),
        terminal.percent(d.relative) if math.isfinite(d.relative) else "-",
    ]


def total_line(comparison: Comparison) -> str:
    """Say how many tensors are in both and their bytes.

    >>> total_line(Comparison((), nbytes=(0, 0)))
    '0 tensors in both, A 0 B, B 0 B'
    """
    shared = comparison.differences
    figures = [f"{len(shared)} tensor{'' if len(shared) == 1 else 's'} in both"]
    if shared:
        exact = sum(d.equal for d in shared)
        some = f"{exact} exact, the others SNR {terminal.decibels(comparison.snr)}"
        figures.append("all exact" if exact == len(shared) else some)
    a, b = comparison.nbytes
    smaller = f" ({a / b:.2f}x smaller)" if b and a / b >= 1.005 else ""  # as compress has it
    figures.append(f"A {terminal.size(a)}, B {terminal.size(b)}{smaller}")
    return ", ".join(figures)
