"""A small model taught by large ones: what it loses against them, and the gradient that mends it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backend, checks
from .float_environment import default_floats

__all__ = ["distillation_loss"]

DEFAULT_ALPHA = 0.5
TEMPERATURES = 1e-6, 1e6


@default_floats
def distillation_loss(
    student_logits: object,
    teacher_logits: object,
    labels: object = None,
    *,
    temperature: float = 1.0,
    alpha: float = DEFAULT_ALPHA,
    out: NDArray[np.float32] | None = None,
) -> tuple[float, NDArray[np.float32]]:
    """What a student loses against its teachers, and the gradient (Hinton, Vinyals, Dean 2015, "Distilling the
    knowledge in a neural network").

    student_logits: (..., classes), float32, float16, bfloat16 or float64; the mean is taken over all rows.
    teacher_logits: the same shape; several teachers as a list or tuple of such arrays, or as one array with an axis
    more in front: their softened probabilities are averaged. labels: integers 0..classes-1 of shape (...), or None.
    temperature: 1e-6..1e6, softens both sides. alpha: 0..1, the teachers' part. out: float32 of the student's shape,
    receives the gradient.

    Returns loss, a float in nats, and grad, float32, the loss differentiated by student_logits:

        loss = mean over rows of  alpha * T**2 * KL(p || q) + (1 - alpha) * -log softmax(student)[label]
        p = mean over teachers of softmax(teacher / T),  q = softmax(student / T)

    KL is the cross-entropy less the entropy of p, which no student can change: its gradient is the same, and it is 0
    where the student agrees (with several teachers, within rounding). Without labels the first part alone is taken,
    with alpha = 1; alpha may then be left out or be 1. No rows or no classes: loss 0. NaN or infinity is a ValueError.

    Computed in float32: exp within 1 unit in the last place, the sums of a row in sixteen lanes; the losses of rows
    are joined in float64. Probabilities below e**-87 of the largest in their row count as 0, and a logit more than
    1e38 * T below the largest in its row as that far below.

    >>> loss, grad = distillation_loss([[2.0, 0.0]], [[0.0, 0.0]], temperature=2.0)
    >>> round(loss, 4), grad.round(4)
    (0.4805, array([[ 0.4621, -0.4621]], dtype=float32))
    """
    x = checks.floats("student_logits", student_logits)
    teachers = _teachers(teacher_logits, x.shape)
    truth = None if labels is None else _labels(labels, x.shape)
    temperature = checks.number("temperature", temperature, *TEMPERATURES)
    alpha = _alpha(alpha, labelled=truth is not None)
    inputs = [a for a in (x, *teachers.values(), truth) if a is not None]
    grad = checks.output(out, x.shape, np.float32, *inputs, in_place=False)
    losses = np.zeros(len(checks.rows(x)))
    others = [checks.rows(t) for t in teachers.values()]
    finite = not x.size or backend.active.distill(
        checks.rows(x), others, truth, temperature, alpha, losses, checks.rows(grad)
    )
    for name, a in {"student_logits": x, **teachers}.items():
        checks.finite(name, a, finite)
    return math.fsum(losses) / max(len(losses), 1), grad


def _teachers(teacher_logits: Any, shape: tuple[int, ...]) -> dict[str, checks.Array]:
    """Arrays of this shape by what an error is to call them."""
    if isinstance(teacher_logits, (list, tuple)):
        named = {f"teacher_logits[{k}]": t for k, t in enumerate(teacher_logits)}
        if not named:
            raise ValueError("teacher_logits must hold at least one teacher, not none")
        if all(checks.array(name, t).ndim == len(shape) for name, t in named.items()):
            return {name: checks.floats(name, t, shape) for name, t in named.items()}
    x = checks.floats("teacher_logits", teacher_logits)
    if x.shape == shape:
        return {"teacher_logits": x}
    if x.shape[1:] != shape or not len(x):
        raise ValueError(f"teacher_logits must have shape {shape}, or one axis more in front, not {x.shape}")
    return {f"teacher_logits[{k}]": t for k, t in enumerate(x)}


def _labels(labels: object, shape: tuple[int, ...]) -> checks.Array:
    """Labels as int64 in one row, each the number of a class."""
    x = checks.array("labels", labels)
    if x.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, not {x.dtype}")
    if x.shape != shape[:-1]:
        raise ValueError(f"labels must have shape {shape[:-1]}, one for each row of student_logits, not {x.shape}")
    flat = x.ravel()
    wrong = (flat < 0) | (flat >= shape[-1])
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(f"labels must be 0..{shape[-1] - 1}, not {flat[at]} at flat index {at}")
    return np.ascontiguousarray(flat, np.int64)


def _alpha(alpha: float, *, labelled: bool) -> float:
    alpha = checks.number("alpha", alpha, 0.0, 1.0)
    if labelled:
        return alpha
    if alpha not in (DEFAULT_ALPHA, 1.0):
        raise ValueError(f"alpha must be left out or be 1 without labels, not {alpha}")
    return 1.0
