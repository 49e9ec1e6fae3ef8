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
DARK, BLUE, GREY = "#222222", "#1f77b4", "#999999"
TICKS = (5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
ONE_PLACE = 3  # pixels by which points may differ that share a name
CLEARANCE = 3  # pixels between a label and what else is drawn

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


def require_matplotlib() -> None:
    """ValueError where it cannot be imported; to be asked before the work."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ValueError(f"--plot must have matplotlib ({error}): pip install 'quantrim[plot]'") from None


def png(rows: Sequence[Row]) -> bytes:
    """A picture of INCHES at DPI."""
    buffer = io.BytesIO()
    draw(rows).savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def draw(rows: Sequence[Row]) -> Any:
    """The figure, drawn by Agg and without pyplot, so that the caller's own figures and backend stay."""
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
    sizes, shares = [row.nbytes for row in rows], [100 * row.accuracy for row in rows]
    axes.plot(sizes, shares, "o", color=BLUE, markersize=6, zorder=3)
    low, room = min(shares), max(shares) - min(shares) + 1
    axes.set(
        xscale="log",
        xlim=(min(sizes) / 1.5, max(sizes) * 1.5),
        ylim=(low - 0.08 * room, max(shares) + 0.18 * room),  # room above, where most points and so labels are
        xlabel="bytes of the file (log axis)",
        ylabel="held-out digits read right, %",
        title=f"Handwritten digits: {rows[0].weights:,} weights, {rows[0].images} images the network never saw",
    )
    ticks = [t for t in TICKS if min(sizes) / 1.5 <= t <= max(sizes) * 1.5]
    axes.set_xticks(ticks, [f"{t // 1000} kB" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks([t for t in axes.get_yticks() if low - 0.08 * room <= t <= 100])
    axes.grid(color="#dddddd", linewidth=0.6)


def _labels(axes: Any, rows: Sequence[Row], renderer: Any) -> None:
    """A name beside each point, at the nearest place where it and its line cover neither points nor names."""
    at = {row.name: tuple(axes.transData.transform((row.nbytes, 100 * row.accuracy))) for row in rows}
    together = _in_one_place(at)
    points: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in at.values()]
    taken = list(points)
    between: list[Box] = []
    frame = axes.get_window_extent(renderer).extents
    for names, (x, y) in sorted(together, key=lambda pair: pair[1]):
        text = axes.annotate(
            "\n".join(names), axes.transData.inverted().transform((x, y)), (0, 0),
            xycoords="data", textcoords="offset pixels", fontsize=TEXT, color=DARK, zorder=4,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip
        size = text.get_window_extent(renderer)
        others = [point for point in points if not _overlap(point, (x, y, x, y))]
        box = free_place((x, y), (size.width, size.height), [*taken, *between], [*others, *between], frame)
        between.append(box)
        taken.extend(_line((x, y), box))
        text.set_position((box[0] - x, box[1] - y))


def _in_one_place(at: Mapping[str, tuple[float, float]]) -> list[tuple[list[str], tuple[float, float]]]:
    """Names of points that cover each other, and where the first of them is."""
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
    """Where a text of this size goes: on nothing that is taken, and with none of `between` on the line to its point."""
    (x, y), (width, height) = at, size
    without_line: Box | None = None
    for dx, dy in _offsets(width, height):
        box = (x + dx, y + dy, x + dx + width, y + dy + height)
        inside = frame[0] < box[0] and frame[1] < box[1] and box[2] < frame[2] and box[3] < frame[3]
        if not inside or any(_overlap(box, other) for other in taken):
            continue
        if not any(_overlap(part, other) for part in _line(at, box) for other in between):
            return box
        without_line = without_line or box
    return without_line or (x, y, x + width, y + height)  # a point that is closed in: the nearest free place


def _line(at: tuple[float, float], box: Box) -> list[Box]:
    """Points of the line from a point to the middle of its name, as far as that is outside."""
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
