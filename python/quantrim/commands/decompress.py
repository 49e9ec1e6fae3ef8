"""quantrim decompress: a compressed checkpoint in, one of floats out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from ..files import open_checkpoint, refuse_same_file
from ..files.disk.errors import PATH_LIMIT, quote
from ..model import DecodedTensor, Decompressed
from ..model import decompress as decompress_checkpoint
from ..model.decompress import check_dtype, described
from ..model.plan.decompress_plan import DecompressPlan, plan_decompress
from . import progress, terminal
from .compress import occupied, refuse_occupied

KINDS = 12  # labels that the closing table names


def run(source: Path, target: Path, *, dtype: str | None, overwrite: bool, as_json: bool) -> None:
    word = _dtype(dtype)
    refuse_occupied(source, target, overwrite)
    with progress.shown("decompressing") as callback:
        done = decompress_checkpoint(source, target, dtype=word, overwrite=overwrite, progress=callback)
    if as_json:
        terminal.print_json({**asdict(done), "decoded": done.decoded})
    else:
        show(done, terminal.console())


def _dtype(dtype: str | None) -> str | None:
    try:
        return check_dtype(dtype)
    except ValueError as error:
        raise ValueError(f"--{error}") from None


def show(done: Decompressed, out: Console) -> None:
    show_kinds(done.tensors, out)
    speed = f"{terminal.size(done.nbytes / done.seconds)}/s" if done.seconds else "-"
    pairs = [
        ("written", done.destination),
        ("size", f"{terminal.size(done.source_bytes)} became {terminal.size(done.nbytes)}"),
        ("tensors", counts(done.tensors)),
    ]
    if done.snr_db is not None:
        narrowed = [t for t in done.tensors if t.snr_db is not None]
        worst = min(narrowed, key=lambda t: t.snr_db if t.snr_db is not None else 0.0)
        assert worst.snr_db is not None
        least = f"; {worst.name} least, {terminal.decibels(worst.snr_db)}" if len(narrowed) > 1 else ""
        pairs.append(("narrowed", f"{terminal.decibels(done.snr_db)} over {len(narrowed)} tensors{least}"))
    pairs.append(("time", f"{done.seconds:.2f} s, {speed}, {done.threads} threads"))
    terminal.print_pairs(out, pairs)
    _show_notes(done.notes, out)


def show_kinds(tensors: Sequence[DecodedTensor], out: Console) -> None:
    """Show how the tensors that change were kept, and what they are now."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for t in tensors:
        if not t.copied:
            row = kinds.setdefault((t.label, t.dtype), [0, 0, 0])
            kinds[t.label, t.dtype] = [row[0] + 1, row[1] + t.source_bytes, row[2] + t.nbytes]
    largest = sorted(kinds.items(), key=lambda item: -item[1][2])[:KINDS]
    rows = [
        [label, str(count), terminal.size(before), dtype, terminal.size(after)]
        for (label, dtype), (count, before, after) in largest
    ]
    terminal.print_table(out, ("stored as", "tensors", "bytes", "becomes", "bytes"), "lrrlr", rows)
    terminal.print_line(out)


def counts(tensors: Sequence[DecodedTensor]) -> str:
    """Count what was done to tensors, in words.

    >>> a = DecodedTensor("a", (2,), "F32", "F32", 8, 8, False, True)
    >>> counts([a, a, DecodedTensor("b", (2,), "F32", "F16", 8, 4, False, False)])
    '1 in another dtype, 2 copied'
    """
    words = ("decoded" if t.decoded else "copied" if t.copied else "in another dtype" for t in tensors)
    found = Counter(words)
    return ", ".join(f"{found[word]} {word}" for word in ("decoded", "in another dtype", "copied") if found[word])


def _show_notes(notes: Sequence[str], out: Console) -> None:
    for note in notes:
        terminal.print_line(out, f"note: {terminal.printable(note)}", style="yellow")


def dry_run(source: Path, target: Path, *, dtype: str | None, overwrite: bool, as_json: bool) -> None:
    word = _dtype(dtype)
    refuse_same_file(source, target)
    with open_checkpoint(source) as checkpoint:
        plan = plan_decompress(checkpoint, word, target)
        tensors = [described(writing) for writing in plan.tensors]
    if as_json:
        terminal.print_json(plan_data(plan, tensors))
    else:
        show_plan(plan, tensors, terminal.console())
    if occupied(target) and not overwrite:
        terminal.say("warning", f"{quote(target, PATH_LIMIT)} exists; to replace it will take --overwrite")


def plan_data(plan: DecompressPlan, tensors: Sequence[DecodedTensor]) -> dict[str, object]:
    return {
        "source": plan.source,
        "source_bytes": plan.source_bytes,
        "nbytes": plan.nbytes,
        "tensors": [asdict(tensor) for tensor in tensors],
        "left_out": list(plan.left_out),
        "notes": list(plan.notes),
    }


def show_plan(plan: DecompressPlan, tensors: Sequence[DecodedTensor], out: Console) -> None:
    rows = [
        [t.name, terminal.shape(t.shape), t.label, terminal.size(t.source_bytes), t.dtype, terminal.size(t.nbytes)]
        for t in tensors
    ]
    headers = ("tensor", "shape", "stored as", "bytes", "becomes", "bytes")
    terminal.print_table(out, headers, "lrlrlr", rows, spare=("shape", "stored as"))
    before, after = terminal.size(plan.source_bytes), terminal.size(plan.nbytes)
    said = f"{before} would become {after} ({plan.nbytes:,} bytes): {counts(tensors)}. Nothing was written."
    terminal.print_line(out, said, style="bold")
    _show_notes(plan.notes, out)
