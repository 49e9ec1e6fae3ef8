"""A student a tenth of its teacher's size, alone and taught (Hinton, Vinyals, Dean 2015), with numpy and quantrim.

    pip install quantrim scikit-learn
    python examples/distill_digits.py [--seeds 10] [--steps 3000]

The teacher is the network that `quantrim demo` ships with: 50,826 weights and biases, trained on 1437 labelled images.
The student has 4,810. It learns in two settings, each from several seeds (its start, its labelled images, the order
of its batches), and is measured on the 360 images that nobody was trained on:

- few labels: alone, it has 100 labelled images. Taught, it has the teacher's softened answers to all 1437 images, and
  no label. This is where distillation is meant to help: images are cheap, labels are not, and the teacher saw them.
- all labels: alone, it has all 1437 labels. Taught, it has the teacher's answers beside them. The teacher saw no more
  than that; all it adds is what its softened answers say of how the classes resemble each other.

Both students of a pair start from the same weights and take the same number of steps. The differences of the pairs are
tested by exchanging the two of each pair in every possible way: p is the share of exchanges whose mean difference is at
least as large as the one found, of either sign.

What comes out, in half a minute:

                            alone         taught     difference        p
    100 labels       88.94 ± 1.91   98.47 ± 0.24    9.53 ± 1.93    0.002  taught is better
    all 1437 labels  98.33 ± 0.35   98.42 ± 0.23    0.08 ± 0.35    0.617  no difference beyond the spread of the seeds

So the teacher is worth a great deal where labels are few, and nothing that can be seen where the student has them all:
four images of 360 are as far as it could come. With --steps 1000 it is even a hindrance there (p 0.002): softened
answers take longer to learn than labels.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from train_digits import SEED, split

from quantrim.demo import decoded
from quantrim.demo.digits import WHITE, logits, model_file
from quantrim.demo.network import Adam, Matrix, backward, batches, forward, fresh_layers
from quantrim.distillation import distillation_loss

SIZES = (64, 64, 10)
LABELLED = 100
BATCH = 50
LEARNING_RATE = 2.0**-8
TEMPERATURE = 4.0
ALPHA = 0.9  # the teacher's part where there are labels too


@dataclass(frozen=True)
class Lessons:
    """What a student learns from: images, the teacher's logits, labels or None, and the teacher's part in the loss."""

    images: Matrix
    taught: NDArray[np.float32]
    labels: NDArray[np.uint8] | None
    alpha: float

    def some(self, which: NDArray[Any]) -> Lessons:
        labels = None if self.labels is None else self.labels[which]
        return Lessons(self.images[which], self.taught[which], labels, self.alpha)


def student(lessons: Lessons, seed: int, steps: int) -> list[Matrix]:
    """Trained by Adam; the rate falls to 0 in a line."""
    rng = np.random.default_rng([seed, 1])
    layers = fresh_layers(np.random.default_rng([seed, 0]), SIZES)
    adam = Adam(layers)
    endless = itertools.chain.from_iterable(batches(rng, len(lessons.images), BATCH) for _ in itertools.count())
    for step, batch in zip(range(steps), endless, strict=False):
        now = lessons.some(batch)
        values = forward(layers, now.images)
        _, grad = distillation_loss(values[-1], now.taught, now.labels, temperature=TEMPERATURE, alpha=now.alpha)
        adam.step(layers, backward(layers, values, grad.astype(float) * len(batch)), LEARNING_RATE * (1 - step / steps))
    return layers


def settings(images: Matrix, labels: NDArray[np.uint8], taught: NDArray[np.float32], seed: int) -> dict[str, Any]:
    """The two students of each setting: alone and taught."""
    whole = Lessons(images, taught, labels, 0.0)
    few = np.random.default_rng([seed, 2]).permutation(len(labels))[:LABELLED]
    return {
        f"{LABELLED} labels": (whole.some(few), Lessons(images, taught, None, 1.0)),
        f"all {len(labels)} labels": (whole, Lessons(images, taught, labels, ALPHA)),
    }


def p_value(differences: NDArray[Any]) -> float:
    """Two-sided exact sign test of the mean of paired differences (Fisher's randomization).

    >>> p_value(np.array([1.0, 1.0, 1.0]))
    0.25
    """
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    means = np.abs(signs @ differences)
    return float(np.mean(means >= abs(differences.sum()) - 1e-9))


def verdict(differences: NDArray[Any], p: float) -> str:
    if 2.0 ** (1 - len(differences)) >= 0.05:
        return "too few seeds to tell"
    better = "better" if differences.mean() > 0 else "worse"
    return f"taught is {better}" if p < 0.05 else "no difference beyond the spread of the seeds"


def main() -> None:
    parser = argparse.ArgumentParser(description="A small network taught by a large one.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3000, help="of training, for each student")
    options = parser.parse_args()
    images, labels, unseen, unseen_labels = split(SEED)
    with model_file() as path:
        teacher = decoded(path)
    taught = logits(teacher, images)
    size = sum(a.size for a in fresh_layers(np.random.default_rng(0), SIZES))
    right = np.mean(logits(teacher, unseen).argmax(1) == unseen_labels)
    print(
        f"teacher, {sum(a.size for a in teacher.values()):,} parameters: {right:.2%} of {len(unseen)} held-out images"
    )
    print(
        f"student, {size:,} parameters, {options.seeds} seeds, in % of the held-out images: mean ± standard deviation\n"
    )
    print(f"{'':<18}{'alone':>15}{'taught':>15}{'difference':>15}{'p':>9}")
    found: dict[str, list[list[float]]] = {}
    for seed in range(options.seeds):
        for name, pair in settings(images / WHITE, labels, taught, seed).items():
            outs = [forward(student(lessons, seed, options.steps), unseen / WHITE)[-1] for lessons in pair]
            found.setdefault(name, []).append([100 * np.mean(out.argmax(1) == unseen_labels) for out in outs])
    for name, pairs in found.items():
        alone, given = np.array(pairs).T
        p = p_value(given - alone)
        cells = [f"{a.mean():.2f} ± {a.std(ddof=1):.2f}" for a in (alone, given, given - alone)]
        print(f"{name:<18}" + "".join(f"{c:>15}" for c in cells) + f"{p:>9.3f}  {verdict(given - alone, p)}")


if __name__ == "__main__":
    with threadpool_limits(1):  # products this small are done before a second thread is awake
        main()
