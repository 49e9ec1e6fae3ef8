"""Loss against bytes as a picture: two panels for each model, embeddings kept on the left, rounded on the right."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quality_front import front
from quality_judge import ORIGINAL, Row
from quality_settings import PLUS

from quantrim.demo.plot import free_place

INCHES, DPI = (7.2, 5.2), 110  # of a panel
TEXT = 8.5  # points
DARK, GREY = "#222222", "#999999"
COLOURS = {  # by how a label begins; the first that fits
    "int8": "#08306b", "int6": "#2171b5", "int5": "#41b6c4", "int4": "#238b45", "int3": "#fe9929", "int2": "#cb181d",
    "pruned": "#888888", ORIGINAL: "#000000", "": "#7a0177",
}  # fmt: skip
NAMES = {"": "codebooks", ORIGINAL: ORIGINAL}  # in the legend, where the label's beginning says too little
SCOPES = {False: "embeddings kept", True: "embeddings rounded as well"}
DOT = 5  # pixels around a point that no label covers
ROOM = 1.6  # by which the loss axis goes beyond the best and the worst


Place = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top


class Named(NamedTuple):
    """A panel whose names are still to be placed: all its points, and those of the front with their names, in data."""

    axes: Any
    points: list[Place]
    names: list[tuple[str, Place]]


def draw(rows: Sequence[Row], models: dict[str, dict[str, Any]], path: Path) -> Any:
    """Write the picture, and return the figure. models: what `quality.describe` says of each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [name for name in models if any(row.model == name for row in rows)]
    size = (2 * INCHES[0], len(shown) * INCHES[1] + 0.6)
    figure: Any = Figure(figsize=size, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = []
    grid = figure.subplots(len(shown), 2, squeeze=False)
    for line, name in zip(grid, shown, strict=True):
        mine = [row for row in rows if row.model == name]
        for axes, (everything, scope) in zip(line, SCOPES.items(), strict=True):
            here = [row for row in mine if row.everything == everything or row.label == ORIGINAL]
            panels.append(_panel(axes, here, _range(mine, models[name]["limit"])))
            axes.set_title(f"{models[name]['title']}\n{scope}", fontsize=10)
            axes.set(xlabel="MB of the files of weights (log axis)", ylabel=models[name]["loss"])
    _legend(figure, rows)
    canvas.draw()  # so that it is known where the points are
    figure.set_layout_engine("none")
    for panel in panels:
        _labels(panel, canvas.get_renderer())
    figure.savefig(path)
    return figure


def _range(rows: Sequence[Row], limit: float) -> Place:
    """Of the loss axis: from below the least that is positive to the worst, but not beyond the limit."""
    losses = [row.loss for row in rows if row.loss > 0] or [limit / 100]
    return min(losses) / ROOM, max(min(max(losses), limit), 2 * min(losses)) * ROOM


def _panel(axes: Any, rows: Sequence[Row], span: Place) -> Named:
    """Points, those beyond the axis as triangles on its edge, and a staircase through the front."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = span
    best = front(rows)
    sizes = [row.nbytes / 1e6 for row in rows]
    axes.set(xscale="log", yscale="log", ylim=(low / ROOM, high), xlim=(min(sizes) / 1.12, max(sizes) * 1.12))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda loss, _: f"{loss:.9f}".rstrip("0").rstrip("."))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color="#e4e4e4", linewidth=0.6)
    stairs = [(row.nbytes / 1e6, _within(row.loss, span)) for row in best]
    axes.plot(*zip(*stairs, strict=True), drawstyle="steps-post", color=GREY, linewidth=1.2, zorder=1)
    for row in sorted(rows, key=best.__contains__):  # the front on top of what lies in the same place
        colour = COLOURS[_kind(row)]
        marker = "^" if row.loss > high else "s" if row.options.get("symmetric") is False else "o"
        face = colour if row in best else "white"
        at = (row.nbytes / 1e6, _within(row.loss, span))
        axes.plot(*at, marker, color=colour, markerfacecolor=face, markersize=7, markeredgewidth=1.4, zorder=3)
    _megabytes(axes, min(sizes), max(sizes))
    return Named(
        axes,
        [(row.nbytes / 1e6, _within(row.loss, span)) for row in rows],
        [(_name(row), at) for row, at in zip(best, stairs, strict=True)],
    )


def _within(loss: float, span: Place) -> float:
    """Where a loss is drawn: none at all, or less than none, on the lower edge."""
    return min(max(loss, span[0]), span[1] / 1.1)


def _name(row: Row) -> str:
    return f"{ORIGINAL} (0)" if row.label == ORIGINAL else row.label.removesuffix(PLUS)


def _kind(row: Row) -> str:
    return next(begin for begin in COLOURS if row.label.startswith(begin))


def _megabytes(axes: Any, low: float, high: float) -> None:
    """Plain numbers, which a log axis of less than a power of ten would not show."""
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    ticks = [step * 10.0**power for power in range(-3, 7) for step in steps]
    ticks = [tick for tick in ticks if low / 1.1 <= tick <= high * 1.1]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _legend(figure: Any, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D

    kinds = [kind for kind in COLOURS if any(_kind(row) == kind for row in rows)]
    plain: dict[str, Any] = {"linestyle": "none", "markersize": 7, "markeredgewidth": 1.4}
    handles = [Line2D([], [], marker="o", color=COLOURS[k], label=NAMES.get(k, k), **plain) for k in kinds]
    handles += [
        Line2D([], [], marker="o", color=DARK, markerfacecolor="white", label="symmetric, or no grid", **plain),
        Line2D([], [], marker="s", color=DARK, markerfacecolor="white", label="asymmetric", **plain),
        Line2D([], [], marker="^", color=DARK, markerfacecolor="white", label="beyond the axis", **plain),
        Line2D([], [], color=GREY, marker="o", label="front: nothing smaller is better", markersize=7),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=9, frameon=False)


def _labels(panel: Named, renderer: Any) -> None:
    """A name at each point of the front, near it and on nothing else: below and left of a front nothing is."""
    axes = panel.axes
    to_pixels = axes.transData.transform
    points = [(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in map(to_pixels, panel.points)]
    taken = [*points, *_stairs([to_pixels(place) for _, place in panel.names])]
    between: list[Box] = []
    frame = axes.get_window_extent(renderer).extents
    for name, place in panel.names:
        x, y = map(float, to_pixels(place))
        text = axes.annotate(
            name, place, (0, 0), xycoords="data", textcoords="offset pixels", fontsize=TEXT, color=DARK, zorder=4,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
        )  # fmt: skip
        size = text.get_window_extent(renderer)
        box = free_place((x, y), (size.width, size.height), taken, between, frame)
        taken.append(box)
        between.append(box)
        text.set_position((box[0] - x, box[1] - y))


def _stairs(corners: Sequence[Any]) -> list[Box]:
    """The line of the front as boxes without width: right to the next point, then down to it."""
    pairs = list(itertools.pairwise(corners))
    across = [(float(a[0]), float(a[1]), float(b[0]), float(a[1])) for a, b in pairs]
    return across + [(float(b[0]), float(b[1]), float(b[0]), float(a[1])) for a, b in pairs]
