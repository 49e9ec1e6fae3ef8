"""Output to a terminal, a pipe or a log: tables, numbers, names that cannot move the cursor.

On a terminal tables are drawn and coloured by rich, which heeds NO_COLOR and TERM; anywhere else they are
plain columns. Nothing here computes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:  # rich takes a while to load, and is not needed for every line
    from rich.console import Console

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#@"
NAME_WIDTH = 40  # columns that a name is given at least
GAP = 2  # columns between columns


def console(stderr: bool = False) -> Console:
    """Make a console for the stream as it is now: tests and callers may have replaced sys.stdout."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def printable(text: str) -> str:
    """Return `text` on one line, with everything escaped that could move a cursor or hide text.

    These are ESC, newlines, NUL, right-to-left marks, lone surrogates.

    >>> printable("a\\x1b[31m\\nb")
    'a\\\\x1b[31m\\\\nb'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def say(kind: str, message: str) -> None:
    """Print one line `quantrim: <kind>: <message>` on stderr. That it cannot be written is no reason to fail."""
    with contextlib.suppress(OSError, ValueError):
        print(f"quantrim: {kind}: {printable(message)}", file=sys.stderr, flush=True)


def print_table(
    out: Console,
    headers: Sequence[str],
    align: str,
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    spare: Sequence[str] = (),
) -> None:
    """Print a table. align: "l" or "r" for each column.

    On a terminal only the first column is broken over lines; where that does not suffice, columns named in
    `spare` are left out.
    """
    lines = [headers, *([printable(cell) for cell in row] for row in rows)]
    if title:
        print_line(out, title, style="bold")
    if not out.is_terminal:
        _print_plain(out, lines, align)
        return
    shown = fitting(lines, out.width, [headers.index(name) for name in spare])
    _print_drawn(out, [[line[k] for k in shown] for line in lines], "".join(align[k] for k in shown))
    left_out = ", ".join(name for k, name in enumerate(headers) if k not in shown)
    if left_out:
        print_line(out, f"(no room for {left_out}; a wider terminal or --json has them)", style="dim")


def fitting(lines: Sequence[Sequence[str]], width: int, spare: Sequence[int]) -> list[int]:
    """Return the columns that fit `width`; the first may shrink to NAME_WIDTH.

    Spare ones are left out in order, and taken back from the last where there is room after all.

    >>> fitting([["name", "a" * 20, "b" * 20]], 40, [1])
    [0, 2]
    """
    from rich.cells import cell_len

    needs = [max(cell_len(line[k]) for line in lines) + GAP for k in range(len(lines[0]))]
    needs[0] = min(needs[0], NAME_WIDTH + GAP)
    room = width + GAP - sum(needs)
    left_out: list[int] = []
    for k in spare:
        if room < 0:
            left_out.append(k)
            room += needs[k]
    for k in reversed(left_out[:-1]):
        if room >= needs[k]:
            left_out.remove(k)
            room -= needs[k]
    return [k for k in range(len(needs)) if k not in left_out]


def _print_drawn(out: Console, lines: Sequence[Sequence[str]], align: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    padding = (0, GAP - 1, 0, 0)  # the box adds a column of its own
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False, padding=padding)
    for k, (header, side) in enumerate(zip(lines[0], align, strict=True)):
        table.add_column(
            Text(header),
            justify="left" if side == "l" else "right",
            overflow="fold",
            no_wrap=k > 0,
            style="cyan" if k == 0 else "",
        )
    for row in lines[1:]:
        table.add_row(*map(Text, row))
    out.print(table)


def _print_plain(out: Console, lines: Sequence[Sequence[str]], align: str) -> None:
    from rich.cells import cell_len

    widths = [max(cell_len(line[k]) for line in lines) for k in range(len(align))]
    for line in lines:
        padded = []
        for cell, width, side in zip(line, widths, align, strict=True):
            blank = " " * (width - cell_len(cell))
            padded.append(cell + blank if side == "l" else blank + cell)
        print_line(out, "  ".join(padded).rstrip())


def print_pairs(out: Console, pairs: Sequence[tuple[str, str]]) -> None:
    """Print words and what they mean, a line each."""
    if not out.is_terminal:
        _print_plain(out, [(word, printable(text)) for word, text in pairs], "ll")
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, GAP))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for word, text in pairs:
        grid.add_row(Text(word), Text(printable(text)))
    out.print(grid)


def print_line(out: Console, text: str = "", style: str | None = None) -> None:
    """Print a line of its own; wrapped on a terminal only."""
    if out.is_terminal:
        from rich.text import Text

        out.print(Text(text, style=style or ""))
    else:
        out.file.write(text + "\n")


def print_json(data: Mapping[str, Any]) -> None:
    """Print strict JSON on stdout: ASCII, and null for what is not finite, which JSON has no word for.

    It begins with the version of its keys and ours."""
    from ..model.report.provenance import stamp

    text = json.dumps(_finite({**stamp(), **data}), indent=2, allow_nan=False) + "\n"
    # line by line: an unbuffered stdout (python -u) cuts a long text off and does not say so
    sys.stdout.writelines(text.splitlines(keepends=True))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def size(count: float) -> str:
    """Write bytes for people: "203.8 kB"."""
    from ..sizes import readable

    return readable(count)


def number(x: float) -> str:
    """Write a measured number in four digits, short.

    >>> number(0.123456), number(-1234567.0), number(0.0), number(3e-5)
    ('0.1235', '-1.235e+06', '0', '3e-05')
    """
    return f"{x:.4g}"


def percent(fraction: float) -> str:
    """Write a fraction in %.

    >>> percent(0.5), percent(1 / 3)
    ('50.0 %', '33.3 %')
    """
    return f"{100 * fraction:.1f} %"


def shape(dims: Sequence[int]) -> str:
    """Write a shape.

    >>> shape((256, 64)), shape(())
    ('256 x 64', 'scalar')
    """
    return " x ".join(map(str, dims)) or "scalar"


def decibels(snr: float) -> str:
    """Write an SNR, or "exact".

    >>> decibels(math.inf), decibels(41.234)
    ('exact', '41.2 dB')
    """
    return "exact" if snr == math.inf else f"{snr:.1f} dB"


def bars(counts: Sequence[int], file: IO[str] | None = None) -> str:
    """Draw counts as a row of blocks, the largest the highest; what is not 0 is seen.

    >>> bars([0, 1, 50, 100])
    ' ▁▄█'
    """
    blocks = BLOCKS if can_encode(file or sys.stdout, BLOCKS) else ASCII_BLOCKS
    top = max(counts, default=0)
    if not top:
        return blocks[0] * len(counts)
    return "".join(blocks[max(bool(count), round(8 * count / top))] for count in counts)


def can_encode(file: IO[str], text: str) -> bool:
    try:
        text.encode(getattr(file, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def open_standard_streams() -> None:
    """Give descriptors 0 to 2 something to be where the caller closed them: no file opened later may become
    one of them and receive a stray print. What an encoding cannot say is escaped."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (open for the life of the process)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def drop_output(stream: IO[str]) -> None:
    """Send what is still buffered for stdout or stderr nowhere: the interpreter would fail again at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
