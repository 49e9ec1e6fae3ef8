"""quantrim demo: the whole story on a small model."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from . import terminal

if TYPE_CHECKING:
    from ..demo import Row

SHADES = " ░▒▓█"
SHOWN = 7  # images
TITLE = "Handwritten digits: a network of {:,} weights, {} images it never saw"
NOTES = (
    "zipped: by zlib, which finds the zeros that a plain file spells out.",
    "Nothing was trained again. 2:4 takes two of each four weights, needed or not.",
)
NEXT = "Next, with a model of yours: quantrim compress MODEL OUT --dry-run"


def run(*, as_json: bool) -> None:
    from .. import demo

    rows = demo.run()
    if as_json:
        terminal.print_json(as_data(rows))
    else:
        out = terminal.console()
        if out.is_terminal and terminal.can_encode(out.file, SHADES + "▀"):
            show_images(out)
        show(rows, out)


def as_data(rows: list[Row]) -> list[dict[str, Any]]:
    return [{**asdict(row), "ratio": row.ratio} for row in rows]


def show(rows: list[Row], out: Console) -> None:
    headers = ("weights", "read right", "bytes", "smaller", "zipped", "zeros")
    cells = [
        [
            row.name,
            terminal.percent(row.accuracy),
            f"{row.nbytes:,}",
            f"{row.ratio:.2f}x",
            f"{row.zipped:,}",
            terminal.percent(row.zeros),
        ]
        for row in rows
    ]
    terminal.print_table(out, headers, "lrrrrr", cells, title=TITLE.format(rows[0].weights, rows[0].images))
    for line in NOTES:
        terminal.print_line(out, line, style="dim")
    terminal.print_line(out, NEXT, style="bold")


def show_images(out: Console) -> None:
    """The first held-out images side by side, two pixels to a character: in grey, or in shades of ink."""
    from ..demo.digits import SIDE, WHITE, held_out

    coloured = out.color_system is not None and not out.no_color
    images = held_out()[0][:SHOWN].reshape(SHOWN, SIDE // 2, 2, SIDE) / WHITE
    for line in range(SIDE // 2):
        text = Text("  ")
        for upper, lower in images[:, line]:
            text.append(_grey(upper, lower) if coloured else _shaded(upper, lower)).append("   ")
        out.print(text)


def _grey(upper: NDArray[Any], lower: NDArray[Any]) -> Text:
    """Each character is a pixel wide and two high: its foreground the upper one, its background the lower."""
    text = Text()
    for pair in zip((255 * upper).astype(int), (255 * lower).astype(int), strict=True):
        top, bottom = (f"rgb({level},{level},{level})" for level in pair)
        text.append("▀", style=f"{top} on {bottom}")
    return text


def _shaded(upper: NDArray[Any], lower: NDArray[Any]) -> Text:
    levels = ((upper + lower) / 2 * (len(SHADES) - 1)).round().astype(int)
    return Text("".join(SHADES[level] for level in levels))
