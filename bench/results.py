"""The results of a run: a row per task, size and number of threads; as text, as files, beside the aims."""

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
    """taken: seconds of each turn by contestant. limit, limit_at_best: seconds, from medians and from the best turns.
    moved: bytes read and written. noise: of reading."""

    task: str
    size: str
    threads: int
    taken: dict[str, list[float]]
    limit: float
    limit_at_best: float
    moved: float
    bandwidth: dict[str, float]
    noise: float

    @property
    def medians(self) -> dict[str, float]:
        return {name: statistics.median(taken) for name, taken in self.taken.items()}

    @property
    def best(self) -> dict[str, float]:
        return {name: min(taken) for name, taken in self.taken.items()}

    @property
    def ours(self) -> str | None:
        """Our first way to do this task."""
        return next((name for name in self.taken if name.startswith(OURS)), None)

    def ratio(self, seconds: dict[str, float]) -> tuple[str, float] | None:
        """Return the fastest peer, and our speed over its; by medians or by best turns."""
        peers = {t: name for name, t in seconds.items() if not name.startswith(OURS)}
        if not self.ours or not peers:
            return None
        return peers[min(peers)], min(peers) / seconds[self.ours]

    def share(self, at_best: bool = False) -> float | None:
        """Return the share of the limit's speed that we reach."""
        if not self.ours:
            return None
        return self.limit_at_best / self.best[self.ours] if at_best else self.limit / self.medians[self.ours]

    def cells(self) -> list[str]:
        """Return the cells of a row, as in HEADER."""
        medians, ours = self.medians, self.ours
        peer, undisturbed = self.ratio(medians), self.ratio(self.best)
        share, share_undisturbed = self.share(), self.share(at_best=True)
        return [
            self.task,
            self.size,
            str(self.threads),
            f"{medians[ours] * 1e3:.3f}" if ours else "-",
            f"{self.moved / medians[ours] / 1e9:.1f}" if ours else "-",
            peer[0] if peer else "-",
            f"{medians[peer[0]] * 1e3:.3f}" if peer else "-",
            f"{peer[1]:.2f}" if peer else "-",
            f"{undisturbed[1]:.2f}" if undisturbed else "-",
            f"{self.limit * 1e3:.3f}",
            f"{share:.0%}" if share else "-",
            f"{share_undisturbed:.0%}" if share_undisturbed else "-",
            f"{self.noise:.2f}",
        ]

    def line(self) -> str:
        """Write a line for somebody who watches: the cells, then everybody's median."""
        cells = "".join(f"{cell:<{width}} " for cell, width in zip(self.cells(), HEADER.values(), strict=True))
        return cells + " | " + self.everybody()

    def everybody(self) -> str:
        """Write median / best milliseconds of each contestant, fastest first."""
        best, ranked = self.best, sorted(self.medians.items(), key=lambda item: item[1])
        return ", ".join(f"{name} {t * 1e3:.3f} / {best[name] * 1e3:.3f}" for name, t in ranked)


HEADER = {  # and the width of a column
    "row": 26,
    "size": 11,
    "threads": 2,
    "ours ms": 9,
    "GB/s": 6,
    "best peer": 45,
    "its ms": 9,
    "ours / peer": 6,
    "at best": 6,
    "limit ms": 9,
    "share": 5,
    "share at best": 5,
    "noise": 5,
}


@dataclass(frozen=True)
class Result:
    about: dict[str, Any]
    rows: list[Row]


def verdicts(rows: list[Row]) -> Iterator[tuple[str, bool]]:
    """Say of each aim that these rows can judge whether it is met."""
    for row in rows:
        if found := row.ratio(row.medians):
            peer, ratio = found
            text = f"{row.task}, {row.size}, {row.threads} threads: {ratio:.2f} x the fastest peer, {peer}"
            yield text, ratio >= 1
    large = {row.task: row for row in rows if row.size == LARGE and row.threads == 1}
    for task in NEAR_LIMIT:
        if task in large and (share := large[task].share()) is not None:
            yield f"{task}, {LARGE}, 1 thread: {share:.0%} of the limit", share >= SHARE_OF_LIMIT
    whole, simple = large.get("global prune 50 %"), large.get("threshold")
    if whole and simple and whole.ours and simple.ours:
        times = whole.medians[whole.ours] / simple.medians[simple.ours]
        yield f"global prune, {LARGE}, 1 thread: {times:.2f} x a threshold", times <= PRUNE_OVER_THRESHOLD


def as_text(result: Result) -> str:
    """Write a page of markdown."""
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
        "Everybody, median / best milliseconds:",
        "",
        *(f"- {row.task}, {row.size}, {row.threads}: {row.everybody()}" for row in result.rows),
    ]
    missed = [text for text, good in verdicts(result.rows) if not good]
    lines += ["", "Aims missed:" if missed else "All aims met.", *(f"- {text}" for text in missed)]
    return "\n".join(lines) + "\n"


def rounded(value: Any) -> Any:
    """Round floats to seven digits, wherever they are: more would be noise."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def save(result: Result) -> tuple[Path, Path]:
    """Save the page, and everything that was measured, under results/<date>-<cpu>."""
    cpu = re.sub(r"[^a-z0-9]+", "-", result.about["cpu"].lower()).strip("-")
    FOLDER.mkdir(exist_ok=True)
    stem = FOLDER / f"{result.about['date']}-{cpu}"
    page, data = stem.with_name(stem.name + ".md"), stem.with_name(stem.name + ".json")
    page.write_text(as_text(result))
    data.write_text(
        json.dumps({"about": result.about, "rows": [rounded(asdict(row)) for row in result.rows]}, indent=1) + "\n"
    )
    return page, data
