"""quantrim demo: the whole story on a small model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from ..files import AtomicFile
from ..files.disk.errors import PATH_LIMIT, quote
from . import terminal
from .compress import check_new_file

if TYPE_CHECKING:
    from ..demo import Row

SHADES = " ░▒▓█"
SHOWN = 7  # images
TITLE = "Handwritten digits: a network of {:,} weights, {} images it never saw"
NOTES = (
    "bytes: of the file, header and recipe included.",
    "sparsity: zeros among the weights read back. 2:4 takes two of each four weights, needed or not.",
    "Only what is recovered was trained again: the network as trained taught it, without labels.",
    "Chosen by validation: bits and sparsity of each layer, within one point of the original on half of these images.",
)
NEXT = "Next, with a model of yours: quantrim compress MODEL OUT --dry-run"


def run(*, as_json: bool, plot: Path | None = None, overwrite: bool = False) -> None:
    from .. import demo

    if plot is not None:
        check_plot_path(plot, overwrite)
    rows = demo.run()
    if plot is not None:
        save_plot(rows, plot)
    if as_json:
        terminal.print_json(as_data(rows))
    else:
        out = terminal.console()
        if out.is_terminal and terminal.can_encode(out.file, SHADES + "▀"):
            show_images(out)
        show(rows, out)
        if plot is not None:
            terminal.print_line(out, f"The picture is {terminal.printable(str(plot))}")
        terminal.print_line(out, NEXT, style="bold")


def check_plot_path(plot: Path, overwrite: bool) -> None:
    """Find out before the work, not after it, that the picture cannot be drawn or written."""
    from ..demo.plot import require_matplotlib

    require_matplotlib()
    if plot.suffix.lower() != ".png":
        raise ValueError(f"--plot must end in .png, not {quote(plot, PATH_LIMIT)}")
    check_new_file("--plot", plot, overwrite)


def save_plot(rows: list[Row], plot: Path) -> None:
    from ..demo.plot import png

    picture = png(rows)
    with AtomicFile(plot, len(picture)) as file:
        file.write(picture)


def as_data(rows: list[Row]) -> dict[str, Any]:
    return {"rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}


def show(rows: list[Row], out: Console) -> None:
    headers = ("weights", "accuracy", "bytes", "ratio", "sparsity")
    cells = [
        [
            row.name,
            terminal.percent(row.accuracy),
            f"{row.nbytes:,}",
            f"{row.ratio:.2f}x",
            terminal.percent(row.sparsity),
        ]
        for row in rows
    ]
    terminal.print_table(out, headers, "lrrrr", cells, title=TITLE.format(rows[0].weights, rows[0].images))
    for line in NOTES:
        terminal.print_line(out, line, style="dim")


def show_images(out: Console) -> None:
    """Show the first held-out images side by side, two pixels to a character: in grey, or in shades of ink."""
    from ..demo.digits import SIDE, WHITE, held_out

    coloured = out.color_system is not None and not out.no_color
    images = held_out()[0][:SHOWN].reshape(SHOWN, SIDE // 2, 2, SIDE) / WHITE
    for line in range(SIDE // 2):
        text = Text("  ")
        for upper, lower in images[:, line]:
            text.append(_grey(upper, lower) if coloured else _shaded(upper, lower)).append("   ")
        out.print(text)


def _grey(upper: NDArray[Any], lower: NDArray[Any]) -> Text:
    """Draw two rows of pixels in a line of characters, one pixel the foreground (upper), one the background (lower)."""
    text = Text()
    for pair in zip((255 * upper).astype(int), (255 * lower).astype(int), strict=True):
        top, bottom = (f"rgb({level},{level},{level})" for level in pair)
        text.append("▀", style=f"{top} on {bottom}")
    return text


def _shaded(upper: NDArray[Any], lower: NDArray[Any]) -> Text:
    levels = ((upper + lower) / 2 * (len(SHADES) - 1)).round().astype(int)
    return Text("".join(SHADES[level] for level in levels))
