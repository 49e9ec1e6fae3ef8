"""What a run found: a row per task, size and number of threads; as text, as files, beside the aims."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("results")
OURS = "quantrim "
LARGE = "4096x11008"
NEAR_LIMIT = (
    *("threshold", "2:4 prune", "l1 total", "l1 per row", "l2 per row", "l2 per column", "int8 per channel"),
    *("int4 groups of 32, packed", "dequantize int4"),
)
SHARE_OF_LIMIT = 0.80  # of those rows, on one thread, for weights that no cache holds
PRUNE_OVER_THRESHOLD = 2.2  # time of an exact global prune in thresholds


@dataclass(frozen=True)
class Row:
    """taken: seconds of each turn by contestant. limit: seconds. moved: bytes read and written. noise: of reading."""

    task: str
    size: str
    threads: int
    taken: dict[str, list[float]]
    limit: float
    moved: float
    bandwidth: dict[str, float]
    noise: float

    @property
    def medians(self) -> dict[str, float]:
        return {name: statistics.median(taken) for name, taken in self.taken.items()}

    @property
    def ours(self) -> float | None:
        """Seconds of our first way to do this task."""
        return next((t for name, t in self.medians.items() if name.startswith(OURS)), None)

    @property
    def best_peer(self) -> tuple[str, float] | None:
        peers = [(name, t) for name, t in self.medians.items() if not name.startswith(OURS)]
        return min(peers, key=lambda peer: peer[1], default=None)

    @property
    def ratio(self) -> float | None:
        """Our speed over the best peer's."""
        return self.best_peer[1] / self.ours if self.ours and self.best_peer else None

    @property
    def share(self) -> float | None:
        """Of the limit's speed that we reach."""
        return self.limit / self.ours if self.ours else None

    def cells(self) -> list[str]:
        """As in HEADER."""
        ours, best = self.ours, self.best_peer
        return [
            self.task,
            self.size,
            str(self.threads),
            f"{ours * 1e3:.3f}" if ours else "-",
            f"{self.moved / ours / 1e9:.1f}" if ours else "-",
            best[0] if best else "-",
            f"{best[1] * 1e3:.3f}" if best else "-",
            f"{self.ratio:.2f}" if self.ratio else "-",
            f"{self.limit * 1e3:.3f}",
            f"{self.share:.0%}" if self.share else "-",
            f"{self.noise:.2f}",
        ]

    def line(self) -> str:
        """For somebody who watches: the cells, then everybody's median."""
        widths = (26, 11, 2, 9, 6, 45, 9, 6, 9, 5, 5)
        cells = "".join(f"{cell:<{w}} " for cell, w in zip(self.cells(), widths, strict=True))
        return cells + " | " + ", ".join(f"{name} {t * 1e3:.3f}" for name, t in self.medians.items())


HEADER = (
    "row",
    "size",
    "threads",
    "ours ms",
    "GB/s",
    "best peer",
    "its ms",
    "ours / peer",
    "limit ms",
    "share",
    "noise",
)


@dataclass(frozen=True)
class Result:
    about: dict[str, Any]
    rows: list[Row]


def verdicts(rows: list[Row]) -> Iterator[tuple[str, bool]]:
    """Each aim that these rows can judge, and whether it is met."""
    for row in rows:
        if row.ratio is not None and row.best_peer is not None:
            peer = row.best_peer[0]
            text = f"{row.task}, {row.size}, {row.threads} threads: {row.ratio:.2f} x the fastest peer, {peer}"
            yield text, row.ratio >= 1
    large = {row.task: row for row in rows if row.size == LARGE and row.threads == 1}
    for task in NEAR_LIMIT:
        if task in large and large[task].share is not None:
            share = large[task].share or 0
            yield f"{task}, {LARGE}, 1 thread: {share:.0%} of the limit", share >= SHARE_OF_LIMIT
    whole, simple = large.get("global prune 50 %"), large.get("threshold")
    if whole and simple and whole.ours and simple.ours:
        times = whole.ours / simple.ours
        yield f"global prune, {LARGE}, 1 thread: {times:.2f} x a threshold", times <= PRUNE_OVER_THRESHOLD


def as_text(result: Result) -> str:
    """A page of markdown."""
    about = result.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"# {about['cpu']}, {about['cores']} cores, {about['date']}",
        "",
        f"Python {about['python']}, {about['system']}, {about['compiler']}, {about['memory_gb']} GB.",
        f"{versions}. Medians of {about['rounds']} interleaved rounds.",
        "GB/s and limit are of the bytes that the task must move.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(row.cells()) + " |" for row in result.rows),
        "",
        "Everybody, in milliseconds:",
        "",
        *(
            f"- {row.task}, {row.size}, {row.threads}: "
            + ", ".join(f"{name} {t * 1e3:.3f}" for name, t in sorted(row.medians.items(), key=lambda m: m[1]))
            for row in result.rows
        ),
    ]
    missed = [text for text, good in verdicts(result.rows) if not good]
    lines += ["", "Aims missed:" if missed else "All aims met.", *(f"- {text}" for text in missed)]
    return "\n".join(lines) + "\n"


def rounded(value: Any) -> Any:
    """Floats to seven digits, wherever they are: more would be noise."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def save(result: Result) -> tuple[Path, Path]:
    """The page, and everything that was measured, under results/<date>-<cpu>."""
    cpu = re.sub(r"[^a-z0-9]+", "-", result.about["cpu"].lower()).strip("-")
    FOLDER.mkdir(exist_ok=True)
    stem = FOLDER / f"{result.about['date']}-{cpu}"
    page, data = stem.with_name(stem.name + ".md"), stem.with_name(stem.name + ".json")
    page.write_text(as_text(result))
    data.write_text(
        json.dumps({"about": result.about, "rows": [rounded(asdict(row)) for row in result.rows]}, indent=1) + "\n"
    )
    return page, data
