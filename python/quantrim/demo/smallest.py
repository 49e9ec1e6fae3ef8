"""The smallest variant of the network that reads as well: `tune` chooses bits and sparsity of each layer.

Half of the images choose. The other half says what the choice is worth: it chose nothing.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model import Tuned, compress, tune
from .digits import LAYERS, decoded, logits

BITS = (8, 6, 5, 4, 3, 2)
SPARSITY = tuple(k / 10 for k in range(10))
MAX_DROP = 0.01  # one point

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Smallest:
    """The settings that were chosen, and what they are worth.

    recipe: for `compress`. nbytes: of the file. zipped: its bytes after zlib, which finds the zeros; this is what was
    to be small. accuracy: on the second half of the images, with `original` that of the network as it was. tuned: how
    the choice was made, with scores on the first half. evaluations: of both searches. images: in each half.
    """

    recipe: dict[str, Any]
    nbytes: int
    zipped: int
    accuracy: float
    original: float
    tuned: Tuned
    evaluations: int
    images: tuple[int, int]


def smallest(
    network: str | os.PathLike[str],
    images: Images,
    labels: Images,
    *,
    max_drop: float = MAX_DROP,
    progress: Callable[[int, int, str], object] | None = None,
) -> Smallest:
    """Find the smallest file, zipped, whose accuracy on half of the images is within max_drop of the original's.

    network: file of the float32 network. images: (n, 64) of 0..16. labels: (n,). progress: as in `tune`, twice.

    There are two searches, one of them without any drop, and the smaller result counts. A search goes one way only, and
    on few images, one of which is half a point, less freedom at first may leave a layer more in the end.
    """
    half = len(labels) // 2
    weights = decoded(network)
    with tempfile.TemporaryDirectory(prefix="quantrim-demo-") as folder:
        files = _Files(network, Path(folder))
        searches = [
            tune(
                lambda settings: accuracy(files.weights(settings), images[:half], labels[:half]),
                {f"{layer} {what}": choices for what, choices in _AXES.items() for layer in LAYERS},
                drop,
                baseline=accuracy(weights, images[:half], labels[:half]),
                cost=lambda settings: len(files.zipped(settings)),
                progress=progress,
            )
            for drop in (0.0, max_drop)
        ]
        tuned = min(searches, key=lambda tuned: len(files.zipped(tuned.settings)))
        best = tuned.settings
        return Smallest(
            recipe=recipe(best),
            nbytes=files.file(best).stat().st_size,
            zipped=len(files.zipped(best)),
            accuracy=accuracy(files.weights(best), images[half:], labels[half:]),
            original=accuracy(weights, images[half:], labels[half:]),
            tuned=tuned,
            evaluations=sum(len(search.evaluations) for search in searches),
            images=(half, len(labels) - half),
        )


_AXES: dict[str, tuple[float, ...]] = {"bits": BITS, "sparsity": SPARSITY}


def recipe(settings: dict[str, Any]) -> dict[str, Any]:
    """Make the recipe for "fc1 bits", "fc1 sparsity", ..."""
    rules = [
        {"match": f"{layer}.weight", "bits": settings[f"{layer} bits"], "prune": settings[f"{layer} sparsity"]}
        for layer in LAYERS
    ]
    # zlib finds the zeros itself
    return {"group_size": 16, "scale": "mse", "storage": "dense", "min_elements": 0, "rule": rules}


def accuracy(weights: dict[str, NDArray[Any]], images: Images, labels: Images) -> float:
    """Measure the share of these images that the network reads as they are labelled."""
    return float(np.mean(logits(weights, images).argmax(1) == labels))


class _Files:
    """Files of the network with the settings that were asked for, each written once."""

    def __init__(self, network: str | os.PathLike[str], folder: Path) -> None:
        self._network, self._folder = network, folder

    def file(self, settings: dict[str, Any]) -> Path:
        path = self._folder / f"{'-'.join(map(str, settings.values()))}.safetensors"
        if not path.exists():
            compress(self._network, path, recipe=recipe(settings))
        return path

    def weights(self, settings: dict[str, Any]) -> dict[str, NDArray[Any]]:
        return decoded(self.file(settings))

    def zipped(self, settings: dict[str, Any]) -> bytes:
        return zlib.compress(self.file(settings).read_bytes(), 9)
