"""Which rows are worth their bytes."""

from __future__ import annotations

from collections.abc import Sequence

from quality_judge import Row


def front(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other beats in bytes and in loss, smallest first. Of rows equal in both, the first."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.nbytes, row.loss)):
        if not found or row.loss < found[-1].loss:
            found.append(row)
    return found
