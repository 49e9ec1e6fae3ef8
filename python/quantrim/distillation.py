"""A small model taught by large ones: the distillation loss and its gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import backend, checks
from .checks import Array
from .float_environment import default_floats
from .reference.distillation import target

__all__ = ["distillation_loss"]

DEFAULT_ALPHA = 0.5
TEMPERATURES = 1e-6, 1e6


@default_floats
def distillation_loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike | Sequence[ArrayLike],
    labels: ArrayLike | None = None,
    *,
    temperature: float = 1.0,
    alpha: float = DEFAULT_ALPHA,
    ignore_index: int = -100,
    out: NDArray[np.float32] | None = None,
) -> tuple[float, NDArray[np.float32]]:
    """Compute the knowledge-distillation loss and its gradient with respect to the student logits (Hinton, Vinyals,
    Dean 2015, "Distilling the knowledge in a neural network").

    student_logits: (..., classes), float32, float16, bfloat16 or float64; the mean is taken over all rows.
    teacher_logits: the same shape; several teachers as a list or tuple of such arrays, or as one array with an axis
    more in front: their softened probabilities are averaged. labels: integers 0..classes-1 of shape (...), or None.
    temperature: 1e-6..1e6, softens both sides. alpha: 0..1, the weight of the teachers' term. ignore_index: the label
    of rows that have none. out: float32 of the student's shape, receives the gradient.

    Returns loss, a float in nats, and grad, float32, the loss differentiated by student_logits:

        loss = alpha * T**2 * mean of KL(p || q) + (1 - alpha) * mean of -log softmax(student)[label]
        p = mean over teachers of softmax(teacher / T),  q = softmax(student / T)

    KL is the cross-entropy less the entropy of p, which no student can change: its gradient is the same, and it is 0
    where the student agrees (with several teachers, within rounding). Without labels the first term alone is taken,
    with alpha = 1; alpha may then be left out or be 1. No rows or no classes: loss 0. The first mean is over all rows,
    the second over those that have a label (as in torch's cross_entropy), and 0 where none has.

    A logit of -inf masks its class: its probability is 0, and so is its gradient where student and teachers mask it.
    ValueError for NaN and +inf, for a row of -inf alone, and where the loss would be infinite: where the student masks
    a class whose p is above 0, or the class of a label (unless alpha leaves that term out).

    Computed in float32: exp within 1 unit in the last place, the sums of a row in sixteen lanes; the losses of rows
    are joined in float64. Probabilities below e**-87 of the largest in their row count as 0, and a logit more than
    1e38 * T below the largest in its row as that far below.

    >>> loss, grad = distillation_loss([[2.0, 0.0]], [[0.0, 0.0]], temperature=2.0)
    >>> round(loss, 4), grad.round(4)
    (0.4805, array([[ 0.4621, -0.4621]], dtype=float32))
    """
    x = checks.floats("student_logits", student_logits)
    teachers = _teachers(teacher_logits, x.shape)
    ignored = checks.integer("ignore_index", ignore_index, -(2**63), 2**63 - 1)
    truth = None if labels is None else _labels(labels, x.shape, ignored)
    temperature = checks.number("temperature", temperature, *TEMPERATURES)
    alpha = _alpha(alpha, labelled=truth is not None)
    inputs = [a for a in (x, *teachers.values(), truth) if a is not None]
    grad = checks.output(out, x.shape, np.float32, *inputs, in_place=False)
    losses = np.zeros(len(checks.rows(x)))
    others = [checks.rows(t) for t in teachers.values()]
    defined = not x.size or backend.active.distill(
        checks.rows(x), others, truth, temperature, alpha, losses, checks.rows(grad)
    )
    if not defined:
        for name, a in {"student_logits": x, **teachers}.items():
            _check_logits(name, a)
        _check_masks(checks.rows(x), others, truth, temperature, alpha)
    return math.fsum(losses) / max(len(losses), 1), grad


def _teachers(teacher_logits: Any, shape: tuple[int, ...]) -> dict[str, checks.Array]:
    """Return arrays of this shape by what an error is to call them."""
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


def _check_logits(name: str, a: Array) -> None:
    """Raise where a logit is NaN or +inf, or where all classes of a row are masked."""
    masked = a == -np.inf
    checks.finite(name, np.where(masked, a.dtype.type(0), a), False)
    alone = checks.rows(masked).all(1)
    if alone.any():
        raise ValueError(f"{name} must have a finite logit in each row, not -inf alone in row {int(alone.argmax())}")


def _check_masks(x: Array, teachers: list[Array], labels: Array | None, temperature: float, alpha: float) -> None:
    """Raise where the student, (rows, classes), masks what it is to learn: its loss would be infinite."""
    masked = x == -np.inf
    some = np.flatnonzero(masked.any(1))
    lost = np.zeros_like(masked)
    if alpha > 0 and some.size:
        p = target([t[some] for t in teachers], np.float32(1 / temperature))[0]
        lost[some] = masked[some] & (p > 0)
        _refuse("where the teachers' probability is above 0", lost)
    if alpha < 1 and labels is not None:
        has = np.flatnonzero(labels >= 0)
        lost[has, labels[has]] = masked[has, labels[has]]
        _refuse("at a label", lost)


def _refuse(where: str, lost: Array) -> None:
    if lost.any():
        row, column = np.unravel_index(int(lost.argmax()), lost.shape)
        raise ValueError(f"student_logits must not be -inf {where}, as in row {row}, class {column}")


def _labels(labels: object, shape: tuple[int, ...], ignored: int) -> Array:
    """Return labels as int64 in one row, each the number of a class; -1 for those that are ignored."""
    x = checks.array("labels", labels)
    if x.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, not {x.dtype}")
    if x.shape != shape[:-1]:
        raise ValueError(f"labels must have shape {shape[:-1]}, one for each row of student_logits, not {x.shape}")
    flat = x.ravel()
    wrong = (flat < 0) | (flat >= shape[-1])
    if not wrong.any() and not 0 <= ignored < shape[-1]:
        return np.require(flat, np.int64, ["C", "ALIGNED"])
    none = flat == ignored
    wrong &= ~none
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(f"labels must be 0..{shape[-1] - 1} or {ignored}, not {flat[at]} at flat index {at}")
    found = flat.astype(np.int64)
    found[none] = -1
    return found


def _alpha(alpha: float, *, labelled: bool) -> float:
    alpha = checks.number("alpha", alpha, 0.0, 1.0)
    if labelled:
        return alpha
    if alpha not in (DEFAULT_ALPHA, 1.0):
        raise ValueError(f"alpha must be left out or be 1 without labels, not {alpha}")
    return 1.0
