"""The whole story on a real small model: what pruning and rounding save, and what they cost in accuracy."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .digits import accuracy, decoded, held_out, model_file
from .variants import VARIANTS, Saved, of_file, write

__all__ = ["ORIGINAL", "VARIANTS", "Row", "decoded", "measure", "run", "write"]

ORIGINAL = "float32, as trained"


@dataclass(frozen=True)
class Row:
    """One variant of the model, measured on its file.

    accuracy: on the held-out images. nbytes: of the file. sparsity: the share of exact zeros among the decoded
    weights. weights: how many, biases apart. original: bytes of the float32 file.
    """

    name: str
    accuracy: float
    nbytes: int
    sparsity: float
    weights: int
    images: int
    original: int

    @property
    def ratio(self) -> float:
        return self.original / self.nbytes


def run(progress: Callable[[str], None] | None = None) -> list[Row]:
    """Save every variant of the model, decode each and measure it; files are in a temporary folder.

    progress: called with the name of each variant before it is made.
    """
    with model_file() as source, tempfile.TemporaryDirectory(prefix="quantrim-demo-") as folder:
        rows = [measure(ORIGINAL, of_file(source), source.stat().st_size)]
        for number, (name, make) in enumerate(VARIANTS.items()):
            if progress:
                progress(name)
            saved = make(source, Path(folder, f"{number}.safetensors"))
            rows.append(measure(name, saved, rows[0].original))
    return rows


def measure(name: str, saved: Saved, original: int) -> Row:
    """Measure what became of the model in this variant."""
    matrices = [w for w in saved.weights.values() if w.ndim == 2]
    size = sum(w.size for w in matrices)
    return Row(
        name=name,
        accuracy=accuracy(saved.weights),
        nbytes=saved.nbytes,
        sparsity=sum(int(np.count_nonzero(w == 0)) for w in matrices) / size,
        weights=size,
        images=len(held_out()[1]),
        original=original,
    )
