"""The report of a compression, for people and for programs."""

from __future__ import annotations

import html
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...files import AtomicFile
from ...files.disk.errors import quote
from .figures import STEPS_HEAD, Figures
from .html import page
from .provenance import stamp

_COLUMNS = (
    "tensor",
    "shape",
    "source bytes",
    "stored bytes",
    "stored as",
    "sparsity",
    "SNR dB",
    "cosine",
    "worst error",
)


@dataclass(frozen=True, repr=False)
class Report(Figures):
    """The report of `compress`: `Figures`, for people and for programs."""

    def __repr__(self) -> str:
        return f"Report({quote(self.destination)}: {self.summary()})"

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, so that its style stays within, for notebooks."""
        return f'<iframe srcdoc="{html.escape(self.to_html())}" style="border:0; width:100%; height:40em"></iframe>'

    def to_json(self) -> str:
        """Encode all of it; numbers that JSON has not (an infinite SNR) are null."""
        return json.dumps(_plain(self.as_data()), indent=2, ensure_ascii=False) + "\n"

    def as_data(self) -> dict[str, Any]:
        """Return a table of all of it, with the version of its keys."""
        return {**stamp(), **asdict(self), "ratio": self.ratio, "gb_per_s": self.gb_per_s}

    def to_markdown(self) -> str:
        rows = [_COLUMNS, tuple("---" for _ in _COLUMNS), *(t.cells() for t in self.tensors)]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        notes = "".join(f"- {note}\n" for note in self.notes)
        steps = "".join("| " + " | ".join(row) + " |\n" for row in self._steps())
        return f"# {quote(self.destination)}\n\n{self.summary()}.\n\n{notes}\n{steps}\n{table}\n"

    def _steps(self) -> list[tuple[str, str, str]]:
        """Return a table for Markdown: a head, a rule, and rows; nothing without steps."""
        return [] if self.steps is None else [STEPS_HEAD, ("---", "---", "---"), *self.steps.rows()]

    def to_html(self) -> str:
        """Return a page that needs no other file."""
        return page(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as its suffix says: .json, .md or .html."""
        writers = {".json": self.to_json, ".md": self.to_markdown, ".html": self.to_html}
        suffix = check_report_suffix(path)
        with AtomicFile(path) as file:
            file.write(writers[suffix]().encode("utf-8", "backslashreplace"))


def check_report_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a report's path, if it is one that `save` knows; ask before the work, not after it."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".md", ".html"):
        raise ValueError(f"report must end in .html, .json or .md, not {quote(path)}")
    return suffix


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
