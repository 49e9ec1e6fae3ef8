"""quantrim merge: the files of a checkpoint as one, with layers or tensors left out where asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from ..files import open_checkpoint, refuse_same_file
from ..files.disk.errors import PATH_LIMIT, quote
from ..model.edit.split import Written, layer_scores, merge_checkpoint, plan_merge
from . import progress, terminal
from .compress import occupied, refuse_occupied
from .split import as_data, score_cells, score_data, show_notes, total_line


def run(
    source: Path, target: Path, *, drop: list[str] | None, drop_lowest: int, overwrite: bool, as_json: bool
) -> None:
    refuse_occupied(source, target, overwrite)
    with progress.shown("merging") as callback:
        done = merge_checkpoint(
            source, target, drop=drop or (), drop_lowest=drop_lowest, overwrite=overwrite, progress=callback
        )
    if as_json:
        terminal.print_json(merge_data(done))
    else:
        out = terminal.console()
        show_dropped(done, out)
        terminal.print_line(out, f"{total_line(done)} in {terminal.printable(done.destination)}", style="bold")
        show_notes(done, out)


def dry_run(
    source: Path, target: Path, *, drop: list[str] | None, drop_lowest: int, overwrite: bool, as_json: bool
) -> None:
    refuse_same_file(source, target)
    with open_checkpoint(source) as checkpoint, progress.shown("reading") as callback:
        plan = plan_merge(checkpoint, target, drop or (), drop_lowest, callback)
        scores = layer_scores(checkpoint, callback)
    if as_json:
        layers = [{"name": score.name, **score_data(score)} for score in scores]
        terminal.print_json({**merge_data(plan), "layers": layers})
    else:
        out = terminal.console()
        gone = {score.name for score in plan.lowest}
        rows = [[s.name, *score_cells(s), "dropped" if s.name in gone else ""] for s in scores]
        if rows:
            terminal.print_table(out, ("layer", "weights", "share of |w|", "rms", ""), "lrrrl", rows)
        show_dropped(plan, out)
        terminal.print_line(out, f"{total_line(plan)}. Nothing was written.", style="bold")
        show_notes(plan, out)
    if occupied(target) and not overwrite:
        terminal.say("warning", f"{quote(target, PATH_LIMIT)} exists; to replace it will take --overwrite")


def merge_data(written: Written) -> dict[str, Any]:
    lowest = [{"name": score.name, **score_data(score)} for score in written.lowest]
    return {**as_data(written), "dropped": list(written.dropped), "lowest": lowest}


def show_dropped(written: Written, out: Console) -> None:
    for score in written.lowest:
        said = f"{terminal.printable(score.name)}: dropped, {terminal.percent(score.share)} of all |w|"
        terminal.print_line(out, said, style="yellow")
    if written.dropped:
        count = len(written.dropped)
        said = f"{count} tensor{'' if count == 1 else 's'} dropped; names and config.json stay as they were"
        terminal.print_line(out, said, style="yellow")
