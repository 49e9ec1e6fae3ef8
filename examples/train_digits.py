"""Train the small model that `quantrim demo` ships with, and set aside the images it never saw.

    pip install scikit-learn safetensors
    python examples/train_digits.py

writes digits.safetensors (the weights) and held_out.safetensors (images and labels) to
python/quantrim/demo/data, the same bytes on every machine.

The products have no order of sums (see quantrim.demo.network). Only the exponentials of the softmax are left to
the machine. They are rounded to the same grid: the chance that a difference in the last bit of one of them shows
at all, in the 2**20 of the whole training, is about 2**-15.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from quantrim.demo.network import Adam, Matrix, backward, batches, forward, fresh_layers, on_grid

SIZES = (64, 256, 128, 10)  # pixels, two hidden layers, digits
SEED = 20
HELD_OUT = 360  # of the 1797 images
EPOCHS = 60
BATCH = 64
LEARNING_RATE = 2.0**-10
WEIGHT_DECAY = 2.0**-9
DATA = Path(__file__).parent.parent / "python" / "quantrim" / "demo" / "data"


def split(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, 64) of 0..16 and labels (n,), to train on and held out."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    images, labels = digits.data[order].astype(np.uint8), digits.target[order].astype(np.uint8)
    return images[HELD_OUT:], labels[HELD_OUT:], images[:HELD_OUT], labels[:HELD_OUT]


def gradients(layers: list[Matrix], x: Matrix, labels: NDArray[np.uint8]) -> list[Matrix]:
    """Of the mean cross-entropy of a batch."""
    values = forward(layers, x)
    likely = np.exp(values[-1] - values[-1].max(1, keepdims=True))
    error = on_grid(likely / on_grid(likely).sum(1, keepdims=True)) - np.eye(SIZES[-1])[labels]
    return backward(layers, values, error)


def train(images: NDArray[np.uint8], labels: NDArray[np.uint8], seed: int) -> list[Matrix]:
    """The rate falls to 0 in a line."""
    rng = np.random.default_rng(seed)
    layers = fresh_layers(rng, SIZES)
    adam, x = Adam(layers, WEIGHT_DECAY), images / 16
    for epoch in range(EPOCHS):
        for batch in batches(rng, len(x), BATCH):
            adam.step(layers, gradients(layers, x[batch], labels[batch]), LEARNING_RATE * (1 - epoch / EPOCHS))
    return layers


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model of `quantrim demo`.")
    parser.add_argument("--output", type=Path, default=DATA, help="folder to write to")
    folder = parser.parse_args().output
    images, labels, unseen, unseen_labels = split(SEED)
    layers = [p.astype(np.float32) for p in train(images, labels, SEED)]
    for name, x, y in (("seen", images, labels), ("held out", unseen, unseen_labels)):
        logits = forward([p.astype(np.float64) for p in layers], x / 16)[-1]
        print(f"{name}: {np.mean(logits.argmax(1) == y):.2%} of {len(y)} images")
    names = [f"fc{k}.{part}" for k in range(1, len(SIZES)) for part in ("weight", "bias")]
    (folder / "digits.safetensors").write_bytes(save(dict(zip(names, layers, strict=True))))
    (folder / "held_out.safetensors").write_bytes(save({"images": unseen, "labels": unseen_labels}))


if __name__ == "__main__":
    with threadpool_limits(1):  # products this small are done before a second thread is awake
        main()
