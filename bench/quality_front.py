"""Which rows are worth their bytes."""

from __future__ import annotations

from collections.abc import Sequence

from quality_judge import Row

SAME_BYTES = 1.001


def front(rows: Sequence[Row]) -> list[Row]:
    """List the rows that no other beats in bytes and in loss, smallest first.

    A few bytes more or less, of headers, are the same bytes. Of rows equal in both, the first. Commands compete only
    where there is nothing else."""
    found: list[Row] = []
    settings = [row for row in rows if not row.command] or rows
    for row in sorted(settings, key=lambda row: (row.nbytes, row.loss)):
        if not found or row.loss < found[-1].loss:
            if found and row.nbytes <= SAME_BYTES * found[-1].nbytes:
                found.pop()
            found.append(row)
    return found
