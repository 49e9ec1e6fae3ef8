"""The knowledge-distillation loss, row by row, and the gradient of the mean. Logits: (rows, classes)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..checks import Array
from .exponential import exp_nonpositive, log
from .lanes import sum_last_axis

LOWEST = -np.finfo(np.float32).max  # below it only -inf, the logit of a masked class, whose probability is 0
FARTHEST = np.float32(-1e38)  # a logit that is further below the largest of its row counts as this far


def softmax_parts(logits: Array, inverse_temperature: np.float32) -> tuple[Array, Array, Array]:
    """Compute exponents x and e**x, (rows, classes), and sums of e**x, (rows, 1)."""
    v = logits.astype(np.float32)
    x = np.maximum((v - v.max(1, keepdims=True)) * inverse_temperature, FARTHEST)
    e = exp_nonpositive(x)
    return x, e, sum_last_axis(e)[:, None]


def target(teachers: Sequence[Array], inverse_temperature: np.float32) -> tuple[Array, Array, Array, Array]:
    """Compute u, share, known, log_sum of the mean of the teachers, p.

    p = u * share; sum p log p = known * share - log_sum."""
    if len(teachers) == 1:
        x, e, total = softmax_parts(teachers[0], inverse_temperature)
        return e, 1 / total, sum_last_axis(e * x), log(total)[:, 0]
    p = np.zeros(teachers[0].shape, np.float32)
    for each in teachers:
        _, e, total = softmax_parts(each, inverse_temperature)
        p += e * (1 / (np.float32(len(teachers)) * total))
    one = np.ones((len(p), 1), np.float32)
    return p, one, sum_last_axis(p * log(p)), 0 * one[:, 0]


def distill(
    student: Array,
    teachers: Sequence[Array],
    labels: Array | None,
    temperature: float,
    alpha: float,
    loss: Array,
    grad: Array,
) -> bool:
    """Compute loss, (rows,) float64, and grad, (rows, classes) float32, of the mean loss.

    labels: (rows,), -1 where a row has none.

    False where a row has no finite logit or one that is NaN or +inf, or where its loss is infinite.
    """
    defined = all(has_logits(a) for a in (student, *teachers))
    masked = student.astype(np.float32) < LOWEST
    with np.errstate(over="ignore", invalid="ignore"):
        u, share, known, log_sum = target(teachers, np.float32(1 / temperature))
        x, e, total = softmax_parts(student, np.float32(1 / temperature))
        divergence = (known.astype(np.float64) - sum_last_axis(u * x)) * share[:, 0]
        divergence += log(total)[:, 0].astype(np.float64) - log_sum
        loss[...] = alpha * temperature * temperature * divergence if alpha else 0
        grad[...] = np.float32(alpha * temperature / len(loss)) * (e * (1 / total) - u * share)
        defined &= not alpha or not (masked & (u > 0)).any()
        if labels is not None:
            has = np.flatnonzero(labels >= 0)
            at, count = (has, labels[has]), max(len(has), 1)
            scale = np.float32((1 - alpha) / count)
            x, e, total = softmax_parts(student, np.float32(1))
            loss[has] += (1 - alpha) * (len(loss) / count) * (log(total)[has, 0].astype(np.float64) - x[at])
            grad[has] += (scale * (e * (1 / total)))[has]
            grad[at] -= scale
            defined &= alpha == 1 or not masked[at].any()
    return bool(defined)


def has_logits(logits: Array) -> bool:
    """Tell whether each row has a finite logit, and none is NaN or +inf."""
    x = logits.astype(np.float32)
    return bool(((x < np.inf).all(1) & (x >= LOWEST).any(1)).all())
