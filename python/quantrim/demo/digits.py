"""A small network that reads handwritten digits, and 360 images that it was not trained on.

64-256-128-10 with ReLU, trained by examples/train_digits.py on the handwritten digits of Alpaydin and Kaynak
(1998) that scikit-learn ships (load_digits: 8 x 8 pixels of 0..16).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import open_checkpoint
from ..model import logical_tensors

LAYERS = ("fc1", "fc2", "fc3")
SIDE = 8  # pixels
WHITE = 16  # the largest pixel


def model_file() -> AbstractContextManager[Path]:
    """Open the float32 network as a file on disk, while the context lasts."""
    return _file("digits.safetensors")


def recovered_file() -> AbstractContextManager[Path]:
    """Open the network 80 % pruned and rounded to 4 bits, then taught again: see recover.py.

    Written by examples/recover_digits.py. Its matrices are compressed (pack-quantized)."""
    return _file("recovered.safetensors")


def _file(name: str) -> AbstractContextManager[Path]:
    return resources.as_file(resources.files(__package__) / "data" / name)


def decoded(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read every tensor of a checkpoint as float32, in whatever layout it is."""
    with open_checkpoint(path) as checkpoint:
        tensors = logical_tensors(checkpoint).items()
        return {name: t.rows(0, t.matrix_shape[0]).reshape(t.shape).astype(np.float32) for name, t in tensors}


def held_out() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read the held-out images, (360, 64) of 0..16, rows of 8 pixels, and their labels, (360,) of 0..9."""
    with _file("held_out.safetensors") as path, open_checkpoint(path) as data:
        return data["images"], data["labels"]


def logits(weights: Mapping[str, NDArray[Any]], images: NDArray[np.uint8]) -> NDArray[Any]:
    """Compute logits, float32 (images, 10). weights: `fc1.weight` (256, 64), `fc1.bias` (256,), ..."""
    x: NDArray[Any] = images.astype(np.float32) / np.float32(WHITE)
    for layer in LAYERS:
        x = x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        if layer != LAYERS[-1]:
            x = np.maximum(x, 0)
    return x


def accuracy(weights: Mapping[str, NDArray[Any]]) -> float:
    """Measure the share of the held-out images that the network reads as they are labelled."""
    images, labels = held_out()
    return float(np.mean(logits(weights, images).argmax(1) == labels))
