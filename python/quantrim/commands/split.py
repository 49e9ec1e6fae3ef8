"""quantrim split: a checkpoint in several files, with an index over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..files import open_checkpoint, refuse_same_file
from ..files.disk.errors import PATH_LIMIT, quote
from ..model.edit.layers import Shard, WeightShare
from ..model.edit.split import Written, check_folder, plan_split, shard_scores, split_checkpoint
from ..sizes import parse_size
from . import progress, terminal, wording
from .compress import occupied, refuse_occupied


def run(
    source: Path, target: Path, *, max_size: str | None, layers: int | None, overwrite: bool, as_json: bool
) -> None:
    size = None if max_size is None else parse_size("--max-size", max_size)
    refuse_occupied(source, target, overwrite)
    with progress.shown("splitting") as callback:
        done = split_checkpoint(source, target, max_size=size, layers=layers, overwrite=overwrite, progress=callback)
    if as_json:
        terminal.print_json(as_data(done))
    else:
        out = terminal.console()
        show_shards(done.shards, None, out)
        terminal.print_line(out, f"{total_line(done)} in {terminal.printable(done.destination)}", style="bold")
        show_notes(done, out)


def dry_run(
    source: Path, target: Path, *, max_size: str | None, layers: int | None, overwrite: bool, as_json: bool
) -> None:
    size = None if max_size is None else parse_size("--max-size", max_size)
    refuse_same_file(source, target)
    with open_checkpoint(source) as checkpoint, progress.shown("reading") as callback:
        check_folder(checkpoint, source, target)
        plan = plan_split(checkpoint, target, size, layers)
        scores = shard_scores(checkpoint, plan.shards, callback)
    if as_json:
        terminal.print_json(as_data(plan, scores))
    else:
        out = terminal.console()
        show_shards(plan.shards, scores, out)
        terminal.print_line(out, f"{total_line(plan)}. Nothing was written.", style="bold")
        show_notes(plan, out)
    if occupied(target) and not overwrite:
        terminal.say("warning", f"{quote(target, PATH_LIMIT)} exists; to replace it will take --overwrite")


def as_data(written: Written, scores: Sequence[WeightShare] | None = None) -> dict[str, Any]:
    shards = [
        {"name": shard.name, "size": shard.size, "tensors": [t.name for t in shard.tensors]} for shard in written.shards
    ]
    for k, score in enumerate(scores or ()):
        shards[k].update(score_data(score))
    return {
        "source": written.source,
        "destination": written.destination,
        "size": written.nbytes,
        "shards": shards,
        "notes": [wording.worded(note) for note in written.notes],
    }


def score_data(score: WeightShare) -> dict[str, Any]:
    return {"weights": score.count, "l1": score.l1, "share": score.share, "rms": score.rms}


def show_shards(shards: Sequence[Shard], scores: Sequence[WeightShare] | None, out: Console) -> None:
    headers, align = ["file", "tensors", "bytes"], "lrr"
    rows = [[shard.name, str(len(shard.tensors)), terminal.size(shard.size)] for shard in shards]
    if scores:
        headers, align = [*headers, "weights", "share of |w|", "rms"], align + "rrr"
        rows = [[*row, *score_cells(score)] for row, score in zip(rows, scores, strict=True)]
    terminal.print_table(out, headers, align, rows)


def show_notes(written: Written, out: Console) -> None:
    for note in written.notes:
        terminal.print_line(out, f"note: {terminal.printable(wording.worded(note))}", style="yellow")


def score_cells(score: WeightShare) -> list[str]:
    return [f"{score.count:,}", terminal.percent(score.share), terminal.number(score.rms)]


def total_line(written: Written) -> str:
    tensors = sum(len(shard.tensors) for shard in written.shards)
    files = f"{len(written.shards)} file{'' if len(written.shards) == 1 else 's'}"
    return f"{tensors} tensor{'' if tensors == 1 else 's'}, {terminal.size(written.nbytes)}, {files}"
