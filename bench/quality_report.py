"""The rows of `quality.py` as a page, as figures, and as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quality_front import front
from quality_judge import ORIGINAL, Row
from quality_plot import draw
from results import rounded

FOLDER = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Result:
    """about: see `quality.about`; its "models" has what `quality.describe` says of each judge."""

    about: dict[str, Any]
    rows: list[Row]

    def of(self, model: str) -> list[Row]:
        return [row for row in self.rows if row.model == model]


def as_text(result: Result) -> str:
    """Write a page of markdown."""
    about = result.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    threads = "1 thread" if about["threads"] == 1 else f"{about['threads']} threads"
    models = [f"{described['loss']} ({name})" for name, described in about["models"].items()]
    lines = [
        f"# What small weights cost, {about['date']}",
        "",
        f"{about['cpu']}, {about['isa']}, {threads}; Python {about['python']}, {versions}.",
        "",
        "- **+embed**: embeddings are rounded as well; all other rows leave them as they were, but those of commands",
        "  (compress ...), which are for a reader and round what it opens.",
        "- g128 means groups of 128 where that divides the columns, else of 64.",
        "- **front**: no other row of its kind (embeddings rounded, or not) has both fewer bytes and less loss,",
        f"  which is {'; '.join(models)}.",
        "- Bytes are those of the files of weights.",
        "- SNR is that of the tensors that were rounded or pruned. Seconds are of `compress`.",
        "- **transformers**: whether its from_pretrained opens the folder, and by how much its numbers then differ",
        "  from those of the weights as quantrim decodes them (a share of the largest).",
    ]
    for model, described in about["models"].items():
        if rows := result.of(model):
            lines += ["", f"## {described['title']}", "", described["about"], "", *table(rows, described["columns"])]
    return "\n".join(lines) + "\n"


def table(rows: list[Row], columns: list[dict[str, str]]) -> list[str]:
    """Write a table in the order of the settings; why a reader failed, and what compress had said, is listed below."""
    best = [row for scope in (False, True) for row in front([row for row in rows if in_scope(row, scope)])]
    head = ["setting", "front", "bytes", "ratio", "SNR dB", *(c["title"] for c in columns), "seconds", "transformers"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 3) + "---|"]
    for row in rows:
        figures = [c["text"].format(row.figures[c["key"]]) for c in columns]
        snr = "-" if row.snr_db is None else f"{row.snr_db:.1f}"
        cells = [row.label, "●" if row in best else "", f"{row.nbytes:,}", f"{row.ratio:.2f}x", snr, *figures]
        lines.append("| " + " | ".join([*cells, f"{row.seconds:.2f}", row.reader_text()]) + " |")
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            said = "; ".join(row.notes) or "nothing"
            reasons.setdefault(f"{row.reason} (compress said: {said})", []).append(row.label)
    return [*lines, "", *(f"- transformers does not open {', '.join(who)}: {why}" for why, who in reasons.items())]


def in_scope(row: Row, everything: bool) -> bool:
    """Tell whether a row competes with those that round embeddings, or with the others: the original with both."""
    return row.everything == everything or row.label == ORIGINAL


def save(result: Result, folder: Path, picture: bool = True) -> list[Path]:
    """Save the page, the figures and, if asked for, the picture, as <date>-quality in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{result.about['date']}-quality"
    paths = [stem.with_name(stem.name + suffix) for suffix in (".md", ".json", ".png")]
    paths[0].write_text(as_text(result), encoding="utf-8")
    rows = [rounded(asdict(row)) for row in result.rows]
    paths[1].write_text(json.dumps({"about": result.about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    if picture:
        draw(result.rows, result.about["models"], paths[2])
    return paths[: 2 + picture]


def load(path: Path) -> Result:
    """Load what `save` wrote as JSON."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    return Result(saved["about"], [Row(**{**row, "notes": tuple(row["notes"])}) for row in saved["rows"]])
