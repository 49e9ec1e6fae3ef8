"""A small network of matrices with ReLU between them, trained in numpy: the same bits on every machine.

Training usually depends on the order in which a BLAS adds. Here both operands of every product are on the grid of
multiples of 2**-18, so that every sum is exact in float64 and has no order.

Layers are a list: weight (out, in), bias (out,), weight, bias, ...
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID = 2.0**18

Matrix = NDArray[np.float64]


def on_grid(x: Matrix) -> Matrix:
    """Round x to multiples of 2**-18."""
    return np.rint(x * GRID) / GRID


def product(a: Matrix, b: Matrix) -> Matrix:
    """Compute a @ b, both rounded to the grid first: exact, whatever the order of its sums."""
    a, b = on_grid(a), on_grid(b)
    bound = np.abs(a).max() * np.abs(b).max() * a.shape[1]
    if bound * GRID * GRID > 2.0**53:
        raise OverflowError(f"sums must stay below 2**53 steps of the grid; they may reach {bound:.0f}")
    return np.asarray(a @ b)


def fresh_layers(rng: np.random.Generator, sizes: Sequence[int]) -> list[Matrix]:
    """Draw layers of random weights. sizes: inputs, hidden units, outputs. He et al. 2015, uniform."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        limit = np.sqrt(6 / fan_in)
        layers += [(2 * rng.random((fan_out, fan_in)) - 1) * limit, np.zeros(fan_out)]
    return layers


def forward(layers: Sequence[Matrix], x: Matrix) -> list[Matrix]:
    """Compute the input of each layer, and the logits."""
    values = [x]
    for k in range(0, len(layers), 2):
        x = product(x, layers[k].T) + layers[k + 1]
        x = np.maximum(x, 0) if k + 2 < len(layers) else x
        values.append(x)
    return values


def backward(layers: Sequence[Matrix], values: Sequence[Matrix], error: Matrix) -> list[Matrix]:
    """Compute gradients like layers. error: (batch, outputs), the gradient of each image's own loss by its logits."""
    result: list[Matrix] = []
    for k in range(len(layers) - 2, -1, -2):
        into = values[k // 2]
        result = [product(error.T, into) / len(error), on_grid(error).sum(0) / len(error), *result]
        error = product(error, layers[k]) * (into > 0)
    return result


class Adam:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    def __init__(self, layers: Sequence[Matrix], weight_decay: float = 0.0) -> None:
        self.mean = [np.zeros_like(p) for p in layers]
        self.square = [np.zeros_like(p) for p in layers]
        self.weight_decay = weight_decay
        self.decay1 = self.decay2 = 1.0

    def step(self, layers: Sequence[Matrix], gradients: Sequence[Matrix], rate: float) -> None:
        """Move the layers, in place."""
        self.decay1, self.decay2 = self.decay1 * 0.9, self.decay2 * 0.999
        for k, g in enumerate(gradients):
            self.mean[k] += 0.1 * (g - self.mean[k])
            self.square[k] += 0.001 * (g * g - self.square[k])
            step = self.mean[k] / (1 - self.decay1) / (np.sqrt(self.square[k] / (1 - self.decay2)) + 1e-8)
            layers[k][...] -= rate * (step + self.weight_decay * layers[k])


def batches(rng: np.random.Generator, count: int, size: int) -> list[NDArray[Any]]:
    """Cut the numbers 0..count-1, in a new order, into batches."""
    order = rng.permutation(count)
    return [order[first : first + size] for first in range(0, count, size)]
