"""Accuracy against bytes as a picture. matplotlib is needed here alone: the extra `plot`."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from . import Row

INCHES, DPI = (10.0, 6.5), 150
TEXT = 9.0  # points
DARK, BLUE, GREY = "#222222", "#1f6fb4", "#8a8f98"
KILOBYTES = (5, 10, 20, 50, 100, 200)
TIMES = (1, 2, 5, 10, 20, 50)
WRONG = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)  # % of the images
ONE_PLACE = 3  # pixels by which points may differ that share a name
CLEARANCE = 3  # pixels between a label and what else is drawn

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


def require_matplotlib() -> None:
    """Raise ValueError where matplotlib cannot be imported; to be asked before the work."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ValueError(f"--plot must have matplotlib ({error}): pip install 'quantrim[plot]'") from None


def png(rows: Sequence[Row]) -> bytes:
    """Draw a picture of INCHES at DPI."""
    buffer = io.BytesIO()
    draw(rows).savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def draw(rows: Sequence[Row]) -> Any:
    """Draw the figure by Agg and without pyplot, so that the caller's own figures and backend stay."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _axes(axes, rows)
    canvas.draw()  # so that it is known where the points are
    figure.set_layout_engine("none")
    _labels(axes, rows, canvas.get_renderer())
    return figure


def _axes(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the points, and the Pareto front as a staircase.

    Up are fewer errors, each half of them as far as the last: from the best variant to the worst is a factor of 20,
    and a straight axis would put nearly all points on its upper edge."""
    sizes, wrongs = [row.nbytes for row in rows], [_wrong(row) for row in rows]
    left, right, bottom, top = min(sizes) / 1.4, max(sizes) * 1.4, max(wrongs) * 1.25, min(wrongs) / 1.4
    best = front(rows)
    stairs = [*((row.nbytes, _wrong(row)) for row in best), (right, _wrong(best[-1]))]
    line = {"drawstyle": "steps-post", "color": BLUE, "linewidth": 1.5, "alpha": 0.5, "zorder": 2}
    axes.plot(*zip(*stairs, strict=True), **line, label="Pareto front: the best that a size allows")
    groups = {
        "no other is both smaller and better": (best, BLUE),
        "another is smaller and at least as good": ([row for row in rows if row not in best], "white"),
    }
    for label, (shown, face) in groups.items():
        places = ([row.nbytes for row in shown], [_wrong(row) for row in shown])
        edge = BLUE if face == BLUE else GREY
        axes.plot(*places, "o", label=label, color=face, markeredgecolor=edge, markersize=7, zorder=5)
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
    axes.set(xlabel="size of the file", ylabel="held-out digits read right")
    axes.set_title(
        f"Handwritten digits: {rows[0].weights:,} weights, {rows[0].images} images the network never saw", pad=12
    )
    axes.set_xticks(*_ticks({1000 * t: f"{t} kB" for t in KILOBYTES}, left, right))
    axes.set_yticks(*_ticks({t: f"{100 - t:g} %" for t in WRONG}, top, bottom))
    times = axes.twiny()
    times.set(xscale="log", xlim=(left, right))
    smaller = {rows[0].original / t: f"{t}x smaller" if t > 1 else "as it was" for t in TIMES}
    times.set_xticks(*_ticks(smaller, left, right))
    for axis in (axes.xaxis, axes.yaxis, times.xaxis):
        axis.set_tick_params(which="both", length=0, labelcolor=DARK)
        axis.set_ticks([], minor=True)
    for side in (*axes.spines.values(), *times.spines.values()):
        side.set_color("#dddddd")
    axes.grid(color="#eeeeee")
    axes.legend(loc="lower right", frameon=False, fontsize=TEXT, labelcolor=DARK)


def front(rows: Sequence[Row]) -> list[Row]:
    """List the rows that no other beats in bytes and accuracy, smallest first; of equal ones the first.

    >>> from quantrim.demo import Row
    >>> rows = [Row(str(k), k / 100, n, 0.0, 1, 100, 9) for k, n in ((50, 2), (90, 5), (40, 3), (90, 6))]
    >>> [row.nbytes for row in front(rows)]
    [2, 5]
    """
    found: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.nbytes, -row.accuracy)):
        if not found or row.accuracy > found[-1].accuracy:
            found.append(row)
    return found


def _wrong(row: Row) -> float:
    """Compute the images read wrong in %; half an image where there are none, since a logarithm has no zero."""
    return 100 * max(1 - row.accuracy, 0.5 / row.images)


def _ticks(labels: Mapping[float, str], low: float, high: float) -> tuple[list[float], list[str]]:
    """Return places on an axis and what they say."""
    shown = {place: label for place, label in labels.items() if low <= place <= high}
    return list(shown), list(shown.values())


def _labels(axes: Any, rows: Sequence[Row], renderer: Any) -> None:
    """Write a name beside each point, at the nearest place where it and its line cover no points and no names.

    Names that need the most room choose first."""
    at = {row.name: tuple(axes.transData.transform((row.nbytes, _wrong(row)))) for row in rows}
    best = {row.name for row in front(rows)}
    together = _in_one_place(at)
    points: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in at.values()]
    taken = [*points, *_stairs([at[row.name] for row in front(rows)], axes.bbox.x1)]
    legend = axes.get_legend().get_window_extent(renderer).extents
    between: list[Box] = [tuple(legend)]
    frame = axes.get_window_extent(renderer).extents
    for names, (x, y) in sorted(together, key=lambda pair: (-len(pair[0]), pair[1])):
        colour = BLUE if best.intersection(names) else DARK
        text = axes.annotate(
            "\n".join(names), axes.transData.inverted().transform((x, y)), (0, 0),
            xycoords="data", textcoords="offset pixels", fontsize=TEXT, color=colour, zorder=4,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
        )  # fmt: skip
        size = text.get_window_extent(renderer)
        others = [point for point in points if not _overlap(point, (x, y, x, y))]
        box = free_place((x, y), (size.width, size.height), [*taken, *between], [*others, *between], frame)
        between.append(box)
        taken.extend(_line((x, y), box))
        text.set_position((box[0] - x, box[1] - y))


def _stairs(best: Sequence[tuple[float, float]], right: float) -> list[Box]:
    """Return the lines of the front: from each of its points to the right, then up to the next."""
    after = [*best[1:], (right, best[-1][1])]
    across = [(x, y, u, y) for (x, y), (u, _) in zip(best, after, strict=True)]
    return [*across, *((u, y, u, v) for (_, y), (u, v) in zip(best, after, strict=True))]


def _in_one_place(at: Mapping[str, tuple[float, float]]) -> list[tuple[list[str], tuple[float, float]]]:
    """Return names of points that cover each other, and where the first of them is."""
    found: list[tuple[list[str], tuple[float, float]]] = []
    for name, (x, y) in at.items():
        same = next((names for names, (u, v) in found if abs(u - x) < ONE_PLACE and abs(v - y) < ONE_PLACE), None)
        if same is None:
            found.append(([name], (x, y)))
        else:
            same.append(name)
    return found


def free_place(
    at: tuple[float, float],
    size: tuple[float, float],
    taken: Sequence[Box],
    between: Sequence[Box],
    frame: Sequence[float],
) -> Box:
    """Find where a text of this size goes: on nothing taken, and with none of `between` on the line to its point."""
    (x, y), (width, height) = at, size
    without_line: Box | None = None
    for dx, dy in _offsets(width, height):
        box = (x + dx, y + dy, x + dx + width, y + dy + height)
        inside = frame[0] < box[0] and frame[1] < box[1] and box[2] < frame[2] and box[3] < frame[3]
        if not inside or any(_overlap(box, other) for other in taken):
            continue
        if not any(_overlap(piece, other) for piece in _line(at, box) for other in between):
            return box
        without_line = without_line or box
    return without_line or (x, y, x + width, y + height)  # a point that is closed in: the nearest free place


def _line(at: tuple[float, float], box: Box) -> list[Box]:
    """Return points of the line from a point to the middle of its name, as far as that is outside."""
    steps = np.linspace(0, 1, 40)
    x, y = at[0] + steps * ((box[0] + box[2]) / 2 - at[0]), at[1] + steps * ((box[1] + box[3]) / 2 - at[1])
    outside = (x < box[0]) | (x > box[2]) | (y < box[1]) | (y > box[3])
    return [(u, v, u, v) for u, v in zip(x[outside].tolist(), y[outside].tolist(), strict=True)]


def _offsets(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Lower left corners of a text around a point: right, left, above, below, then farther and farther away."""
    yield 12, -height / 2 + 2
    yield -12 - width, -height / 2 + 2
    for far, angle in itertools.product(range(18, 600, 12), np.arange(0, 2 * np.pi, np.pi / 12)):
        across, up = far * np.cos(angle), far * np.sin(angle)
        yield float(across - width * (1 - np.cos(angle)) / 2), float(up - height / 2)


def _overlap(a: Box, b: Box) -> bool:
    apart = a[2] + CLEARANCE < b[0] or b[2] + CLEARANCE < a[0] or a[3] + CLEARANCE < b[1] or b[3] + CLEARANCE < a[1]
    return not apart
