"""Bits and sparsity of each layer by validation: the smallest network within one point of the original.

    python examples/tune_digits.py [--max-drop 0.01]

Half of the 360 held-out images choose, the other half says what the choice is worth. 180 images are few: one of them is
more than half a point, and the half that chose flatters its choice.
"""

from __future__ import annotations

import argparse
import sys

from quantrim.demo import digits
from quantrim.demo.smallest import MAX_DROP, smallest


def show(done: int, total: int, settings: str) -> None:
    print(f"{done} of at most {total} evaluations: {settings}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description="Choose bits and sparsity of each layer of the demo's network.")
    parser.add_argument("--max-drop", type=float, default=MAX_DROP, help="of accuracy, a share")
    drop = parser.parse_args().max_drop
    images, labels = digits.held_out()
    with digits.model_file() as network:
        original = network.stat().st_size
        found = smallest(network, images, labels, max_drop=drop, progress=show)
    for layer in digits.LAYERS:
        settings = found.tuned.settings
        print(f"{layer}: {settings[f'{layer} bits']} bits, {settings[f'{layer} sparsity']:.0%} pruned")
    print(f"{original:,} bytes became {found.nbytes:,}, zipped {found.zipped:,}, in {found.evaluations} evaluations")
    print(f"the {found.images[0]} images that chose: {found.tuned.baseline:.2%} before, {found.tuned.score:.2%} now")
    print(f"the {found.images[1]} others: {found.original:.2%} before, {found.accuracy:.2%} now")


if __name__ == "__main__":
    main()
