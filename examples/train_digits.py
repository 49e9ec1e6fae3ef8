"""Train the small model that `quantrim demo` ships with, and set aside the images it never saw.

    pip install scikit-learn safetensors
    python examples/train_digits.py

writes digits.safetensors (the weights) and held_out.safetensors (images and labels) to
python/quantrim/demo/data, the same bytes on every machine.

Training usually depends on the order in which a BLAS adds. Here both operands of every product lie on the
grid of multiples of 2**-18, so that every sum is exact in float64 and has no order. Only the exponentials of
the softmax are left to the machine. They are rounded to the same grid: the chance that a difference in the
last bit of one of them shows at all, in the 2**20 of the whole training, is about 2**-15.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

SIZES = (64, 256, 128, 10)  # pixels, two hidden layers, digits
SEED = 20
HELD_OUT = 360  # of the 1797 images
EPOCHS = 60
BATCH = 64
LEARNING_RATE = 2.0**-10
WEIGHT_DECAY = 2.0**-9
GRID = 2.0**18
DATA = Path(__file__).parent.parent / "python" / "quantrim" / "demo" / "data"

Matrix = NDArray[np.float64]


def on_grid(x: Matrix) -> Matrix:
    return np.rint(x * GRID) / GRID


def product(a: Matrix, b: Matrix) -> Matrix:
    """a @ b, both rounded to the grid first: exact, whatever the order of its sums."""
    a, b = on_grid(a), on_grid(b)
    bound = np.abs(a).max() * np.abs(b).max() * a.shape[1]
    if bound * GRID * GRID > 2.0**53:
        raise OverflowError(f"sums must stay below 2**53 steps of the grid; they may reach {bound:.0f}")
    return np.asarray(a @ b)


def split(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, 64) of 0..16 and labels (n,), to train on and held out."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    images, labels = digits.data[order].astype(np.uint8), digits.target[order].astype(np.uint8)
    return images[HELD_OUT:], labels[HELD_OUT:], images[:HELD_OUT], labels[:HELD_OUT]


def fresh_layers(rng: np.random.Generator) -> list[Matrix]:
    """fc1.weight (256, 64), fc1.bias (256,), ...: He et al. 2015, uniform."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(SIZES):
        limit = np.sqrt(6 / fan_in)
        layers += [(2 * rng.random((fan_out, fan_in)) - 1) * limit, np.zeros(fan_out)]
    return layers


def forward(layers: list[Matrix], x: Matrix) -> list[Matrix]:
    """The input of each layer, and the logits."""
    values = [x]
    for k in range(0, len(layers), 2):
        x = product(x, layers[k].T) + layers[k + 1]
        x = np.maximum(x, 0) if k + 2 < len(layers) else x
        values.append(x)
    return values


def gradients(layers: list[Matrix], x: Matrix, labels: NDArray[np.uint8]) -> list[Matrix]:
    """Of the mean cross-entropy of a batch."""
    values = forward(layers, x)
    likely = np.exp(values[-1] - values[-1].max(1, keepdims=True))
    error = on_grid(likely / on_grid(likely).sum(1, keepdims=True)) - np.eye(SIZES[-1])[labels]
    result: list[Matrix] = []
    for k in range(len(layers) - 2, -1, -2):
        into = values[k // 2]
        result = [product(error.T, into) / len(x), on_grid(error).sum(0) / len(x), *result]
        error = product(error, layers[k]) * (into > 0)
    return result


def train(images: NDArray[np.uint8], labels: NDArray[np.uint8], seed: int) -> list[Matrix]:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); the rate falls to 0 in a line."""
    rng = np.random.default_rng(seed)
    layers = fresh_layers(rng)
    mean, square = [np.zeros_like(p) for p in layers], [np.zeros_like(p) for p in layers]
    x, decay1, decay2 = images / 16, 1.0, 1.0
    for epoch in range(EPOCHS):
        rate = LEARNING_RATE * (1 - epoch / EPOCHS)
        order = rng.permutation(len(x))
        for first in range(0, len(x), BATCH):
            batch = order[first : first + BATCH]
            decay1, decay2 = decay1 * 0.9, decay2 * 0.999
            for k, g in enumerate(gradients(layers, x[batch], labels[batch])):
                mean[k] += 0.1 * (g - mean[k])
                square[k] += 0.001 * (g * g - square[k])
                step = mean[k] / (1 - decay1) / (np.sqrt(square[k] / (1 - decay2)) + 1e-8)
                layers[k] -= rate * (step + WEIGHT_DECAY * layers[k])
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
    main()
