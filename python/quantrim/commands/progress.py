"""Progress of a long run: a bar on a terminal, a line every few seconds in a log. Both on stderr."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from . import terminal

Callback = Callable[[int, int, str], None]
SECONDS = 5.0  # between two lines of a log
NAME_WIDTH = 36  # of a tensor name beside the bar


@contextlib.contextmanager
def shown(verb: str) -> Iterator[Callback]:
    """Make a callback (done, total, name) that shows how far `verb` has come, until the block ends."""
    err = terminal.console(stderr=True)
    if err.is_terminal and not err.is_dumb_terminal:
        with _bar(verb, err) as callback:
            yield callback
    else:
        yield _Lines(verb)


@contextlib.contextmanager
def _bar(verb: str, err: Console) -> Iterator[Callback]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}", justify="right"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[tensor]}", style="dim"),
    )
    start = time.monotonic()
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(verb, total=None, rate="", tensor="")

        def callback(done: int, total: int, name: str) -> None:
            seconds = time.monotonic() - start
            rate = f"{terminal.size(done / seconds)}/s" if done and seconds else ""
            progress.update(task, completed=done, total=total, rate=rate, tensor=Text(_shortened(name)))

        yield callback


def _shortened(name: str) -> str:
    """Cut a name to its end, where names differ."""
    text = terminal.printable(name)
    return text if len(text) <= NAME_WIDTH else "…" + text[1 - NAME_WIDTH :]


class _Lines:
    """Nothing at all for a run of less than SECONDS."""

    def __init__(self, verb: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._verb, self._clock = verb, clock
        self._start = self._last = clock()

    def __call__(self, done: int, total: int, name: str) -> None:
        now = self._clock()
        if now - self._last < SECONDS or not total:
            return
        self._last = now
        size, rate = terminal.size, done / (now - self._start)
        share = f"{100 * done // total} %, {size(done)} of {size(total)}, {size(rate)}/s"
        terminal.say(self._verb, f"{share}, {name}")
