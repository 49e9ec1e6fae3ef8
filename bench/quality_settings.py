"""The settings that `quality.py` judges: one row each. A row more is a line here and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

ALL: dict[str, Any] = {"reader": "any"}  # what a label says is rounded so, whoever opens it; embeddings as well
LINEARS: dict[str, Any] = {**ALL, "exclude": "*embed*"}  # embeddings, and with them a tied head, stay floats
PLUS = " +embed"  # ends the label of a row with ALL
COMMAND = "compress"  # begins the label of a row named by what people type; then the reader chooses, and defaults count
INT8: dict[str, Any] = {"bits": 8, "group_size": "channel", "scale": "absmax", "symmetric": True}
INT4: dict[str, Any] = {"bits": 4, "group_size": 32, "scale": "absmax", "symmetric": True}
INT8_EMBEDDINGS: dict[str, Any] = {"rule": [{"match": "*embed*", "bits": 8}]}  # of a recipe

BITS, GROUPS, SCALES, SYMMETRIC = (8, 6, 5, 4, 3, 2), (32, 64, 128), ("absmax", "mse"), (True, False)


@dataclass(frozen=True)
class Setting:
    """options: of `quantrim.model.compress`. usual: whether a run without --rows has it."""

    label: str
    options: dict[str, Any] = field(default_factory=dict)
    usual: bool = True

    @property
    def embeddings(self) -> bool | None:
        """Whether embeddings are to be rounded as well; None where that is for the reader and the model to say."""
        return None if self.label.startswith(COMMAND) else self.label.endswith(PLUS)


def settings() -> list[Setting]:
    """List all rows, in the order of the table."""
    return [
        Setting("compress --bits 8", {"bits": 8}),
        Setting("compress --bits 4", {"bits": 4}),
        Setting("compress --for transformers --bits 4", {"reader": "transformers", "bits": 4}),
        Setting("compress --for bitsandbytes", {"reader": "bitsandbytes"}),
        Setting("compress --for any", {"reader": "any"}),
        Setting("int8 channel absmax sym", {**INT8, **LINEARS}),
        Setting("int8 channel mse sym", {**INT8, "scale": "mse", **LINEARS}),
        *grids("", LINEARS),
        Setting("nf4 g64", {"codebook": "nf4", **LINEARS}),
        Setting("mxfp4 g32", {"codebook": "mxfp4", **LINEARS}),
        Setting("clusters 16", {"clusters": 16, **LINEARS}),
        Setting("pruned 50 %", {"prune": 0.5, "storage": "sparse", **LINEARS}),
        Setting("pruned 2:4", {"prune": "2:4", "storage": "sparse", **LINEARS}),
        Setting("pruned 50 % + int4 g32 absmax sym", {**INT4, "prune": 0.5, **LINEARS}),
        Setting("pruned 2:4 + int4 g32 absmax sym", {**INT4, "prune": "2:4", **LINEARS}),
        Setting(f"int8 channel absmax sym{PLUS}", {**INT8, **ALL}),
        *grids(PLUS, ALL),
        Setting(f"nf4 g64{PLUS}", {"codebook": "nf4", **ALL}),
        Setting(f"clusters 16{PLUS}", {"clusters": 16, **ALL}),
        Setting(f"int4 g32 mse sym, int8{PLUS}", {"recipe": {**INT4, "scale": "mse", **ALL, **INT8_EMBEDDINGS}}),
    ]


def grids(plus: str, scope: dict[str, Any]) -> Iterator[Setting]:
    """List every uniform grid, coarser and coarser."""
    for grid in product(BITS, GROUPS, SCALES, SYMMETRIC):
        yield Setting(grid_label(*grid) + plus, {**grid_options(*grid), **scope}, usual(*grid, bool(plus)))


def usual(bits: int, group: int, scale: str, symmetric: bool, everything: bool) -> bool:
    """List all at 4 bits; from 5 on what anybody would ask for; below what is best and one that is cheap."""
    if everything:
        return (bits, group, scale, symmetric) in USUAL_EVERYTHING
    if bits == 4:
        return True
    if bits > 4:
        return scale == "mse" and group != 64 and symmetric
    return group == 32 if bits == 2 else group != 64 and (scale == "mse" or (group == 128 and symmetric))


USUAL_EVERYTHING = [
    (4, 32, "absmax", True), (4, 32, "mse", True), (4, 32, "mse", False), (4, 128, "absmax", True),
    (4, 128, "mse", True), (3, 32, "mse", False),
]  # fmt: skip


def grid_label(bits: int, group: int, scale: str, symmetric: bool) -> str:
    return f"int{bits} g{group} {scale} {'sym' if symmetric else 'asym'}"


def grid_options(bits: int, group: int, scale: str, symmetric: bool) -> dict[str, Any]:
    return {"bits": bits, "group_size": group, "scale": scale, "symmetric": symmetric}


def chosen(globs: list[str]) -> list[Setting]:
    """Choose the usual rows, or with globs all rows whose label one of them matches. ValueError for none."""
    rows = [s for s in settings() if (any(fnmatchcase(s.label, glob) for glob in globs) if globs else s.usual)]
    if not rows:
        raise ValueError(f"--rows must match a label of quality_settings.py, not {' '.join(globs)}")
    return rows
