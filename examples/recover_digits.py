"""Prune and round the model of `quantrim demo` until it fails, then let it recover: the network as trained teaches
its own small form, from images without labels.

    pip install quantrim scikit-learn safetensors
    python examples/recover_digits.py [--seeds 3]

prints how many of the 360 held-out images are read before and after, and writes the form that is pruned by 80 % to
recovered.safetensors in python/quantrim/demo/data, the same bytes on every machine.
In half a minute (355 as trained):

      pruned    before                after, by seed      mean
         50%       353                   355 355 355     355.0
         70%       324                   355 355 355     355.0
         80%       269                   353 354 354     353.7
         90%       125                   350 350 350     350.0
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from train_digits import DATA, SEED, split

from quantrim import demo
from quantrim.demo.digits import accuracy, held_out, model_file
from quantrim.demo.recover import Weights, compressed, masks_of, recover

BITS, GROUP_SIZE = 4, 32
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
SHIPPED = 0.8


def write(recovered: Weights, target: Path) -> None:
    """The recovered weights as a file of 4-bit codes and float16 scales, of which 80 % stand for 0."""
    with tempfile.TemporaryDirectory() as folder:
        source, small = Path(folder, "float32.safetensors"), Path(folder, "small.safetensors")
        save_file(dict(recovered), source)
        demo.write(source, small, {"bits": BITS, "group_size": GROUP_SIZE, "scale": "absmax"})  # as `recover` rounds
        target.write_bytes(small.read_bytes())


def read_right(weights: Weights, sparsity: float) -> int:
    """Held-out images that the pruned and rounded network reads."""
    small = compressed(weights, masks_of(weights, sparsity), BITS, GROUP_SIZE)
    return round(accuracy(small) * len(held_out()[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Win back what pruning and rounding cost.")
    parser.add_argument("--output", type=Path, default=DATA, help="folder to write to")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    images, *_ = split(SEED)
    with model_file() as path:
        trained = demo.decoded(path)
    count = len(held_out()[1])
    print(f"int4 in groups of {GROUP_SIZE}; {count} held-out images, {round(accuracy(trained) * count)} as trained")
    print(f"{'pruned':>8}{'before':>10}{'after, by seed':>30}{'mean':>10}")
    for sparsity in SPARSITIES:
        after = []
        for seed in range(options.seeds):
            weights = recover(
                trained,
                images,
                sparsity=sparsity,
                bits=BITS,
                group_size=GROUP_SIZE,
                epochs=options.epochs,
                seed=seed,
            )
            after.append(read_right(weights, sparsity))
            if (sparsity, seed) == (SHIPPED, 0):
                write(weights, options.output / "recovered.safetensors")
        each = " ".join(map(str, after))
        print(f"{sparsity:>8.0%}{read_right(trained, sparsity):>10}{each:>30}{np.mean(after):>10.1f}", flush=True)


if __name__ == "__main__":
    with threadpool_limits(1):  # products this small are done before a second thread is awake
        main()
