"""The whole story on a real small model: what pruning and rounding save, and what they cost in accuracy."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..model import compress
from .digits import accuracy, held_out, model_file
from .digits import decoded as decoded

# name -> options of compress
VARIATIONS: dict[str, dict[str, Any]] = {
    "pruned 50 %": {"bits": None, "prune": 0.5},
    "pruned 2:4": {"bits": None, "prune": "2:4"},
    "int8": {"bits": 8},
    "int4, groups of 32": {"bits": 4, "group_size": 32},
    "pruned 50 % + int4": {"bits": 4, "group_size": 32, "prune": 0.5},
    "int2, groups of 32": {"bits": 2, "group_size": 32, "scale": "mse"},
}
ORIGINAL = "float32, as trained"


@dataclass(frozen=True)
class Row:
    """One form of the model, measured on the file that was written.

    accuracy: on the held-out images. nbytes: of the file. zipped: bytes after zlib, which finds the zeros
    that a plain file spells out. zeros: the share of exact zeros among the decoded weights. original: bytes
    of the float32 file.
    """

    name: str
    accuracy: float
    nbytes: int
    zipped: int
    zeros: float
    weights: int
    images: int
    original: int

    @property
    def ratio(self) -> float:
        return self.original / self.nbytes


def run(progress: Callable[[str], None] | None = None) -> list[Row]:
    """Write the model in every form to a temporary folder, read each back and measure it.

    progress: called with the name of each form before it is made.
    """
    with model_file() as source, tempfile.TemporaryDirectory(prefix="quantrim-demo-") as folder:
        original = source.stat().st_size
        rows = [measure(ORIGINAL, source, original)]
        for number, (name, options) in enumerate(VARIATIONS.items()):
            if progress:
                progress(name)
            target = Path(folder, f"{number}.safetensors")
            write(source, target, options)
            rows.append(measure(name, target, original))
    return rows


def write(source: Path, target: Path, options: dict[str, Any]) -> None:
    """The model in one of its forms; small matrices too, which compress leaves alone by itself."""
    compress(source, target, min_elements=0, **options)


def measure(name: str, path: Path, original: int) -> Row:
    """What became of the model in this file."""
    weights = decoded(path)
    matrices = [w for w in weights.values() if w.ndim == 2]
    size = sum(w.size for w in matrices)
    return Row(
        name=name,
        accuracy=accuracy(weights),
        nbytes=path.stat().st_size,
        zipped=len(zlib.compress(path.read_bytes(), 9)),
        zeros=sum(int(np.count_nonzero(w == 0)) for w in matrices) / size,
        weights=size,
        images=len(held_out()[1]),
        original=original,
    )
