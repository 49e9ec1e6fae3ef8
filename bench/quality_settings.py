"""The settings that `quality.py` judges: one row each. A row more is a line here and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

LINEARS: dict[str, Any] = {"exclude": "*embed*"}  # embeddings, and with them a tied head, stay floats
EVERYTHING: dict[str, Any] = {}  # embeddings are rounded as well
INT8_EMBEDDINGS: dict[str, Any] = {"rule": [{"match": "*embed*", "bits": 8}]}  # of a recipe
PLUS = " +embed"  # ends the label of a row with EVERYTHING

BITS, GROUPS, SCALES, SYMMETRIC = (8, 6, 5, 4, 3, 2), (32, 64, 128), ("absmax", "mse"), (True, False)


@dataclass(frozen=True)
class Setting:
    """options: of `quantrim.model.compress`. usual: whether a run without --rows has it."""

    label: str
    options: dict[str, Any] = field(default_factory=dict)
    usual: bool = True

    @property
    def everything(self) -> bool:
        """Whether embeddings are rounded as well."""
        return self.label.endswith(PLUS)


def settings() -> list[Setting]:
    """All rows, in the order of the table."""
    return [
        Setting("int8 channel absmax sym", {"bits": 8, **LINEARS}),
        *grids(),
        Setting("nf4 g64", {"codebook": "nf4", **LINEARS}),
        Setting("mxfp4 g32", {"codebook": "mxfp4", **LINEARS}),
        Setting("clusters 16", {"clusters": 16, **LINEARS}),
        Setting("pruned 50 %", {"bits": None, "prune": 0.5, "storage": "sparse", **LINEARS}),
        Setting("pruned 2:4", {"bits": None, "prune": "2:4", "storage": "sparse", **LINEARS}),
        Setting("pruned 50 % + int4 g32 absmax sym", {"bits": 4, "group_size": 32, "prune": 0.5, **LINEARS}),
        Setting("pruned 2:4 + int4 g32 absmax sym", {"bits": 4, "group_size": 32, "prune": "2:4", **LINEARS}),
        Setting(f"int8 channel absmax sym{PLUS}", {"bits": 8, **EVERYTHING}),
        *(Setting(f"{grid_label(*grid)}{PLUS}", {**grid_options(*grid), **EVERYTHING}) for grid in ALSO_EVERYTHING),
        Setting(f"nf4 g64{PLUS}", {"codebook": "nf4", **EVERYTHING}),
        Setting(f"clusters 16{PLUS}", {"clusters": 16, **EVERYTHING}),
        Setting(f"int4 g32 mse sym, int8{PLUS}", {"recipe": {**grid_options(4, 32, "mse", True), **INT8_EMBEDDINGS}}),
    ]


ALSO_EVERYTHING = [
    (4, 32, "absmax", True), (4, 32, "mse", True), (4, 32, "mse", False), (4, 128, "absmax", True),
    (4, 128, "mse", True), (3, 32, "mse", False),
]  # fmt: skip


def grids() -> Iterator[Setting]:
    """Every uniform grid, coarser and coarser."""
    for grid in product(BITS, GROUPS, SCALES, SYMMETRIC):
        yield Setting(grid_label(*grid), {**grid_options(*grid), **LINEARS}, usual(*grid))


def usual(bits: int, group: int, scale: str, symmetric: bool) -> bool:
    """All at 4 bits; from 5 on what anybody would ask for; below what is best and one that is cheap."""
    if bits == 4:
        return True
    if bits > 4:
        return scale == "absmax" and group in (32, 128) and (symmetric or bits < 8)
    return (group == 32) if bits == 2 else scale == "mse" or (group == 128 and symmetric)


def grid_label(bits: int, group: int, scale: str, symmetric: bool) -> str:
    return f"int{bits} g{group} {scale} {'sym' if symmetric else 'asym'}"


def grid_options(bits: int, group: int, scale: str, symmetric: bool) -> dict[str, Any]:
    return {"bits": bits, "group_size": group, "scale": scale, "symmetric": symmetric}


def chosen(globs: list[str]) -> list[Setting]:
    """The usual rows, or with globs those of all rows whose label one of them matches. ValueError for none."""
    rows = [s for s in settings() if (any(fnmatchcase(s.label, glob) for glob in globs) if globs else s.usual)]
    if not rows:
        raise ValueError(f"--rows must match a label of quality_settings.py, not {' '.join(globs)}")
    return rows
