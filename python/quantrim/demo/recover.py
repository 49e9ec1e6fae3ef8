"""Accuracy that pruning and rounding cost, won back: the network as trained teaches its own compressed weights.

Only images are needed, no labels: the network's softened answers are what those learn (Hinton, Vinyals,
Dean 2015). In the forward pass the weights are those that a file would hold: pruned, and rounded to their grid. The
gradient passes through the rounding as if it were not there (straight-through, Bengio, Leonard, Courville 2013);
what is pruned stays 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..distillation import distillation_loss
from ..pruning import apply_mask, prune
from ..quantization import dequantize, quantize
from .digits import LAYERS, WHITE
from .network import Adam, backward, batches, forward

NAMES = tuple(f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias"))
BATCH = 64
TEMPERATURE = 4.0
LEARNING_RATE = 2.0**-10

Weights = Mapping[str, NDArray[Any]]
Masks = Mapping[str, NDArray[np.bool_]]


def recover(
    weights: Weights,
    images: NDArray[np.uint8],
    *,
    sparsity: float,
    bits: int = 4,
    group_size: int = 32,
    epochs: int = 60,
    seed: int = 0,
) -> dict[str, NDArray[np.float32]]:
    """Find weights that can be pruned and rounded at little cost; what is to be pruned is 0 already.

    weights: of the demo's network, as trained. images: (n, 64) of 0..16, to learn from. sparsity: of each matrix; its
    smallest weights go. bits, group_size: of the grid with float16 scales to which `compress` is to round the result.
    Returns float32 arrays, the same bits on every machine (see `network`, and `distillation_loss`).
    """
    masks = masks_of(weights, sparsity)
    layers = [weights[name].astype(np.float64) for name in NAMES]
    taught = forward(layers, images / WHITE)[-1]
    rng, adam = np.random.default_rng(seed), Adam(layers)
    for epoch in range(epochs):
        for batch in batches(rng, len(images), BATCH):
            small = compressed(dict(zip(NAMES, layers, strict=True)), masks, bits, group_size)
            rounded = [small[name].astype(np.float64) for name in NAMES]
            values = forward(rounded, images[batch] / WHITE)
            _, grad = distillation_loss(values[-1], taught[batch], temperature=TEMPERATURE)
            error = grad.astype(np.float64) * len(batch)
            adam.step(layers, backward(rounded, values, error), LEARNING_RATE * (1 - epoch / epochs))
    return masked(dict(zip(NAMES, layers, strict=True)), masks)


def masks_of(weights: Weights, sparsity: float) -> dict[str, NDArray[np.bool_]]:
    """Mark, for each matrix, the weights that stay."""
    return {name: prune(weights[name], sparsity) != 0 for name in NAMES if weights[name].ndim == 2}


def masked(weights: Weights, masks: Masks) -> dict[str, NDArray[np.float32]]:
    single = {name: np.asarray(p, np.float32) for name, p in weights.items()}
    return {name: apply_mask(p, masks[name]) if name in masks else p for name, p in single.items()}


def compressed(weights: Weights, masks: Masks, bits: int, group_size: int) -> dict[str, NDArray[Any]]:
    """Return what a file would give back: matrices pruned and rounded, biases as they are."""

    def rounded(p: NDArray[np.float32]) -> NDArray[Any]:
        return dequantize(quantize(p, bits, group_size=group_size, scale_dtype="float16"), dtype=np.float16)

    return {name: rounded(p) if name in masks else p for name, p in masked(weights, masks).items()}
