"""Loss against bytes as a picture: two panels for each model, embeddings kept on the left, rounded on the right."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quality_front import front
from quality_judge import ORIGINAL, Row
from quality_settings import COMMAND, PLUS

from quantrim.demo.plot import free_place

INCHES, DPI = (7.2, 6.0), 110  # of a panel
TEXT = 8.5  # points
DARK, GREY = "#222222", "#999999"
CODEBOOKS = ""  # any other label
COLOURS = {  # by how a label begins; the first that fits
    "int8": "#08306b", "int6": "#2171b5", "int5": "#41b6c4", "int4": "#238b45", "int3": "#fe9929", "int2": "#cb181d",
    "pruned": "#888888", COMMAND: DARK, CODEBOOKS: "#7a0177",
}  # fmt: skip
SCOPES = {False: "embeddings kept", True: "embeddings rounded as well"}
SIZES = {False: 7, True: 10}  # of a marker: commands are drawn around the setting that they are
DOTS = {False: 5, True: 12}  # pixels around it that no label covers
ROOM = 1.6  # by which the loss axis goes beyond the best and the worst


Place = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top


class Named(NamedTuple):
    """A panel whose names are still to be placed: its points with pixels around, the line of the front, and points
    with names, in data."""

    axes: Any
    points: list[tuple[Place, int]]
    stairs: list[Place]
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
        mine = [row for row in rows if row.model == name and row.label != ORIGINAL]
        original = "".join(f" ({r.nbytes / 1e6:.1f} MB as it was)" for r in rows if r.model == name and r not in mine)
        for axes, (everything, scope) in zip(line, SCOPES.items(), strict=True):
            axes.set_title(f"{models[name]['title']}\n{scope}{original}", fontsize=10)
            axes.set(xlabel="MB of the files of weights (log axis)", ylabel=models[name]["loss"])
            if here := [row for row in mine if row.everything == everything]:
                panels.append(_panel(axes, here, _losses(mine, models[name]["limit"])))
    _legend(figure, rows)
    canvas.draw()  # so that it is known where the points are
    figure.set_layout_engine("none")
    for panel in panels:
        _labels(panel, canvas.get_renderer())
    figure.savefig(path)
    return figure


def _losses(rows: Sequence[Row], limit: float) -> Place:
    """Set the loss axis: from below the least that is positive to the worst, but not beyond the limit."""
    losses = [row.loss for row in rows if row.loss > 0] or [limit / 100]
    return min(losses) / ROOM**2, max(min(max(losses), limit), 2 * min(losses)) * ROOM


def _sizes(rows: Sequence[Row], best: Sequence[Row]) -> Place:
    """Set the axis of MB: as far as the front goes, with room for names; rows which waste bytes do not squeeze it."""
    low, high = min(row.nbytes for row in rows) / 1e6, best[-1].nbytes / 1e6
    room = max(high / low, 1.1) ** 0.25
    return low / room, high * room


def _panel(axes: Any, rows: Sequence[Row], losses: Place) -> Named:
    """Draw points, those beyond the axes as triangles on the edge, and a staircase through the front."""
    from matplotlib.ticker import LogLocator, NullLocator

    best = front(rows)
    sizes = _sizes(rows, best)
    axes.set(xscale="log", yscale="log", xlim=sizes, ylim=losses)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda loss, _: f"{loss:.9f}".rstrip("0").rstrip("."))
    axes.yaxis.set_minor_locator(NullLocator())
    _megabytes(axes, *sizes)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    stairs = [_place(row, sizes, losses) for row in best]
    stairs.append((sizes[1], stairs[-1][1]))
    axes.plot(*zip(*stairs, strict=True), drawstyle="steps-post", color=GREY, linewidth=1.2, zorder=1)
    for row in sorted(rows, key=best.__contains__):  # the front on top of what is in the same place
        colour, at = COLOURS[_kind(row)], _place(row, sizes, losses)
        face = "none" if row.command else colour if row in best else "white"
        marker, size = _marker(row, sizes, losses), SIZES[row.command]
        axes.plot(*at, marker, color=colour, markerfacecolor=face, markersize=size, markeredgewidth=1.4, zorder=3)
    named = {row.label: row for row in (*_ends(best), *(row for row in rows if row.command))}
    names = [(_name(row), _place(row, sizes, losses)) for row in named.values()]
    return Named(axes, [(_place(row, sizes, losses), DOTS[row.command]) for row in rows], stairs, names)


def _place(row: Row, sizes: Place, losses: Place) -> Place:
    """Place a row within the axes; no loss at all, or less than none, is near the lower edge."""
    return _within(row.nbytes / 1e6, sizes), _within(row.loss, losses)


def _within(value: float, axis: Place) -> float:
    edge = (axis[1] / axis[0]) ** 0.02  # the width of a point
    return min(max(value, axis[0] * edge), axis[1] / edge)


def _marker(row: Row, sizes: Place, losses: Place) -> str:
    if row.loss > losses[1]:
        return "^"
    if row.nbytes / 1e6 > sizes[1]:
        return ">"
    if row.command:
        return "D"
    return "s" if row.options.get("symmetric") is False else "o"


def _name(row: Row) -> str:
    return row.label.removeprefix(COMMAND).removesuffix(PLUS).strip()


def _ends(best: Sequence[Row]) -> list[Row]:
    """List of the front the smallest and the best row of each kind: more names would be read by nobody."""
    kinds: dict[str, list[Row]] = {}
    for row in best:
        kinds.setdefault(_kind(row), []).append(row)
    return [row for rows in kinds.values() for row in (rows[:1] + rows[1:][-1:])]


def _kind(row: Row) -> str:
    return next(begin for begin in COLOURS if row.label.startswith(begin))


def _megabytes(axes: Any, low: float, high: float) -> None:
    """Write plain numbers, which a log axis of less than a power of ten would not show."""
    from matplotlib.ticker import MaxNLocator

    ticks = [tick for tick in MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _legend(figure: Any, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D

    kinds = [kind for kind in COLOURS if any(_kind(row) == kind for row in rows if row.label != ORIGINAL)]
    plain: dict[str, Any] = {"linestyle": "none", "markersize": 7, "markeredgewidth": 1.4}
    of_settings = [kind for kind in kinds if kind != COMMAND]
    handles = [Line2D([], [], marker="o", color=COLOURS[k], label=k or "codebooks", **plain) for k in of_settings]
    if COMMAND in kinds:
        hollow = {**plain, "markerfacecolor": "none"}
        handles += [Line2D([], [], marker="D", color=DARK, label="a command's options", **hollow)]
    handles += [
        Line2D([], [], marker="o", color=DARK, markerfacecolor="white", label="symmetric, or no grid", **plain),
        Line2D([], [], marker="s", color=DARK, markerfacecolor="white", label="asymmetric", **plain),
        Line2D([], [], marker=">", color=DARK, markerfacecolor="white", label="beyond an axis", **plain),
        Line2D([], [], color=GREY, marker="o", label="front: nothing smaller is better", markersize=7),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=9, frameon=False)


def _labels(panel: Named, renderer: Any) -> None:
    """Write names near their points and on nothing else: below and left of a front nothing is."""
    axes = panel.axes
    to_pixels = axes.transData.transform
    points = [(x - dot, y - dot, x + dot, y + dot) for place, dot in panel.points for x, y in (to_pixels(place),)]
    taken = [*points, *_stairs([to_pixels(place) for place in panel.stairs])]
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
    """Return the line of the front as boxes without width: right to the next point, then down to it."""
    pairs = list(itertools.pairwise(corners))
    across = [(float(a[0]), float(a[1]), float(b[0]), float(a[1])) for a, b in pairs]
    return across + [(float(b[0]), float(b[1]), float(b[0]), float(a[1])) for a, b in pairs]
