"""The distillation loss against float64 formulas written anew, finite differences and torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from functions import FLOATS, Array, bits_of

import quantrim as qt
from quantrim import backend
from quantrim.distillation import distillation_loss
from quantrim.reference.exponential import LOWEST_EXPONENT, exp_nonpositive, log

DTYPES = pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
ISAS = pytest.mark.parametrize("isa", qt.isas())
EPSILON = 2.0**-24  # one rounding of a float32
# A probability inherits the rounding of its exponent, which is below 40 here, and has a few roundings of its own and of
# its row's sum. Of a row's gradient, in units of alpha * T + 1 - alpha:
GRADIENT_ERROR = 64 * EPSILON
LOSS_ERROR = 64 * EPSILON  # likewise, in units of alpha * T**2 + 1 - alpha times the largest exponent


def logits(seed: int, shape: tuple[int, ...], dtype: Any = np.float32, spread: float = 2.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32).astype(dtype)


def log_softmax(x: Array) -> Array:
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def exact(student: Array, teachers: list[Array], labels: Array | None, temperature: float, alpha: float) -> float:
    """The docstring's formula in float64."""
    p = np.mean([np.exp(log_softmax(np.asarray(t, np.float64) / temperature)) for t in teachers], 0)
    log_q = log_softmax(np.asarray(student, np.float64) / temperature)
    log_p = np.log(p, where=p > 0, out=np.zeros_like(p))
    loss = alpha * temperature**2 * (p * (log_p - log_q)).sum(-1)
    if labels is not None:
        loss = loss - (1 - alpha) * np.take_along_axis(log_softmax(student), labels[..., None], -1)[..., 0]
    return float(loss.mean())


def exact_gradient(
    student: Array, teachers: list[Array], labels: Array | None, temperature: float, alpha: float
) -> Array:
    """In float64: alpha * T * (q - p) + (1 - alpha) * (softmax - one at the label), over the rows."""
    p = np.mean([np.exp(log_softmax(np.asarray(t, np.float64) / temperature)) for t in teachers], 0)
    g = alpha * temperature * (np.exp(log_softmax(np.asarray(student, np.float64) / temperature)) - p)
    if labels is not None:
        g = g + (1 - alpha) * (np.exp(log_softmax(student)) - np.eye(student.shape[-1])[labels])
    return np.asarray(g / max(math.prod(student.shape[:-1]), 1))


def agrees(student: Array, teachers: list[Array], labels: Array | None, temperature: float, alpha: float) -> None:
    weight = 1.0 if labels is None else alpha
    options = {} if labels is None else {"alpha": alpha}
    loss, grad = distillation_loss(student, teachers, labels, temperature=temperature, **options)
    rows = math.prod(student.shape[:-1])
    size = (weight * temperature + 1 - weight) / rows
    want = exact_gradient(student, teachers, labels, temperature, weight)
    assert grad.dtype == np.float32 and grad.shape == student.shape
    assert np.abs(grad - want).max() <= GRADIENT_ERROR * size
    scale = weight * temperature**2 + 1 - weight
    largest = max(float(np.ptp(np.asarray(a, np.float64))) for a in (student, *teachers)) + 1
    assert abs(loss - exact(student, teachers, labels, temperature, weight)) <= LOSS_ERROR * scale * largest


# exp and log


def units(found: Array, true: Array) -> float:
    """The largest error in units in the last place of the true value."""
    return float((np.abs(found - true) / np.spacing(np.abs(true).astype(np.float32))).max())


def test_exp_is_within_one_unit_in_the_last_place() -> None:
    """A sample of all float32 of -87..-0, and everything near 0."""
    last = int(np.abs(LOWEST_EXPONENT).view(np.int32))
    for patterns in (np.arange(0, last + 1, 997, dtype=np.int32), np.arange(last - 100_000, last, dtype=np.int32)):
        x = -patterns.view(np.float32)
        assert 0.5 < units(exp_nonpositive(x), np.exp(x.astype(np.float64))) < 1


def test_exp_below_its_range_is_zero_and_at_zero_one() -> None:
    x = np.array([0.0, -0.0, -1e-45, -87.0, np.nextafter(np.float32(-87), np.float32(-88)), -1e38, -np.inf], np.float32)
    assert exp_nonpositive(x).tolist() == [1, 1, 1, float(exp_nonpositive(x[3:4])[0]), 0, 0, 0]
    assert exp_nonpositive(x)[3] == pytest.approx(math.exp(-87), rel=2 * EPSILON)


def test_log_is_within_two_units_in_the_last_place() -> None:
    """A sample of all normal float32, and everything near 1."""
    for patterns in (
        np.arange(0x800000, 0x7F800000, 997, dtype=np.int32),
        np.arange(0x3F800000 - 200_000, 0x3F800000, dtype=np.int32),
        np.arange(0x3F800001, 0x3F800001 + 200_000, dtype=np.int32),
    ):
        x = patterns.view(np.float32)
        assert units(log(x), np.log(x.astype(np.float64))) < 2
    assert log(np.ones(1, np.float32)) == 0
    assert np.isfinite(log(np.zeros(1, np.float32)))


# The loss


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.5])
@pytest.mark.parametrize("teachers", [1, 2, 5])
@DTYPES
def test_loss_and_gradient_agree_with_float64(teachers: int, temperature: float, dtype: Any) -> None:
    for shape in ((1, 2), (7, 33), (64, 10), (3, 5, 17), (2, 5000)):
        student = logits(1, shape, dtype)
        taught = [logits(10 + k, shape, dtype) for k in range(teachers)]
        labels = np.random.default_rng(2).integers(0, shape[-1], shape[:-1])
        agrees(student, taught, None, temperature, 1.0)
        for alpha in (0.0, 0.3, 1.0):
            agrees(student, taught, labels, temperature, alpha)


@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize("labelled", [False, True])
def test_gradient_agrees_with_finite_differences(teachers: int, labelled: bool) -> None:
    """Central differences of the float64 formula: in error by step**2 and by rounding / step."""
    step = 1e-4
    student = logits(3, (4, 9)).astype(np.float64)
    taught = [logits(20 + k, (4, 9)) for k in range(teachers)]
    labels, alpha = (np.array([0, 8, 3, 3]), 0.4) if labelled else (None, 1.0)
    _, grad = distillation_loss(student, taught, labels, temperature=3, alpha=alpha)
    for at in np.ndindex(*student.shape):
        up, down = student.copy(), student.copy()
        up[at] += step
        down[at] -= step
        rise = exact(up, taught, labels, 3, alpha) - exact(down, taught, labels, 3, alpha)
        assert grad[at] == pytest.approx(rise / (2 * step), abs=1e-6)


@pytest.mark.interop
def test_loss_and_gradient_agree_with_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch, which also differentiates this loss, is not installed")
    student, teacher = logits(5, (64, 100)), logits(6, (64, 100))
    labels = np.random.default_rng(7).integers(0, 100, 64)
    functional = torch.nn.functional
    for temperature, alpha in ((1.0, 0.5), (4.0, 0.9)):
        s, t, y = torch.tensor(student, requires_grad=True), torch.tensor(teacher), torch.tensor(labels)
        soft = functional.kl_div(
            functional.log_softmax(s / temperature, 1), functional.softmax(t / temperature, 1), reduction="batchmean"
        )
        total = alpha * temperature**2 * soft + (1 - alpha) * functional.cross_entropy(s, y)
        total.backward()
        loss, grad = distillation_loss(s.detach(), t, y, temperature=temperature, alpha=alpha)
        assert loss == pytest.approx(total.item(), rel=1e-6)
        assert np.abs(grad - s.grad.numpy()).max() <= 2 * GRADIENT_ERROR * temperature / 64  # both err


def test_a_student_that_agrees_loses_nothing() -> None:
    """Exactly 0, not a rounding below it, and an exactly zero gradient; with several teachers within rounding."""
    x = logits(8, (17, 200), spread=6)
    loss, grad = distillation_loss(x, x, temperature=3)
    assert loss == 0 and not grad.any()
    loss, grad = distillation_loss(x, [x, x, x], temperature=3)
    assert abs(loss) < 9 * LOSS_ERROR and np.abs(grad).max() < GRADIENT_ERROR * 3


def test_rows_of_the_gradient_sum_to_zero() -> None:
    _, grad = distillation_loss(logits(9, (8, 3000)), logits(10, (8, 3000)), np.arange(8), temperature=2)
    assert np.abs(grad.astype(np.float64).sum(1)).max() < GRADIENT_ERROR


def test_several_teachers_as_a_list_a_tuple_or_one_array() -> None:
    student, taught = logits(11, (6, 20)), logits(12, (3, 6, 20))
    want = distillation_loss(student, list(taught))
    for form in (tuple(taught), taught, taught.tolist()):
        loss, grad = distillation_loss(student, form)
        assert loss == want[0] and bits_of(grad) == bits_of(want[1])
    mixed = [taught[0].astype(np.float16), taught[1].astype(np.float64), taught[2].astype(FLOATS["bfloat16"])]
    agrees(student, [np.asarray(t) for t in mixed], None, 2.0, 1.0)
    one = distillation_loss(student, taught[:1])
    assert one[0] == distillation_loss(student, taught[0])[0]


@pytest.mark.promise("A30")
def test_teachers_that_speak_dlpack_alone() -> None:
    class Foreign:
        def __init__(self, a: Array) -> None:
            self.__dlpack__ = a.__dlpack__
            self.__dlpack_device__ = a.__dlpack_device__

    student, taught = logits(11, (6, 20)), logits(12, (3, 6, 20))
    want = distillation_loss(student, taught)[0]
    assert distillation_loss(Foreign(student), [Foreign(t) for t in taught])[0] == want
    assert distillation_loss(student, Foreign(taught))[0] == want


def test_one_gradient_per_layout_of_the_batch() -> None:
    """(2, 3, classes) is six rows; (classes,) is one."""
    student, teacher, labels = logits(13, (6, 20)), logits(14, (6, 20)), np.arange(6)
    want = distillation_loss(student, teacher, labels)
    loss, grad = distillation_loss(student.reshape(2, 3, 20), teacher.reshape(2, 3, 20), labels.reshape(2, 3))
    assert loss == want[0] and bits_of(grad.reshape(6, 20)) == bits_of(want[1])
    single, row = distillation_loss(student[0], teacher[0], np.int64(0))
    assert bits_of(row) == bits_of(distillation_loss(student[:1], teacher[:1], [0])[1][0])
    assert single == distillation_loss(student[:1], teacher[:1], [0])[0]


def test_alpha_without_labels() -> None:
    student, teacher = logits(15, (6, 20)), logits(16, (6, 20))
    want = distillation_loss(student, teacher, temperature=2)
    same = distillation_loss(student, teacher, temperature=2, alpha=1)
    labelled = distillation_loss(student, teacher, np.zeros(6, int), temperature=2, alpha=1)
    for loss, grad in (same, labelled):
        assert loss == want[0]
        np.testing.assert_array_equal(grad, want[1])
    for alpha in (0.0, 0.3, 0.999):
        with pytest.raises(ValueError, match=f"alpha must be left out or be 1 without labels, not {alpha}"):
            distillation_loss(student, teacher, alpha=alpha)


# Extremes


LARGE = {  # student, teacher, label; the divergence and the cross-entropy to be found
    "1e4": ([1e4, -1e4, 0], [-1e4, 1e4, 0], 1, 2e4, 2e4),
    "beyond the range of exp": ([0, -200, -50], [-200, 0, -50], 1, 200, 200),
    "near the largest float32": ([3e38, -3e38, 0], [3e38, -3e38, 0], 0, 0, 0),
    "all of them far below 0": ([-3e38] * 3, [0] * 3, 2, 0, math.log(3)),
    "differences beyond float32": ([3e38, -3e38, 0], [-3e38, 3e38, 0], 0, 1e38, 0),  # farther does not count
}


@pytest.mark.promise("A13")
@pytest.mark.parametrize("name", LARGE)
@ISAS
def test_large_logits(name: str, isa: str) -> None:
    s, t, label, divergence, cross_entropy = LARGE[name]
    student, teacher, labels = np.array([s], np.float32), np.array([t], np.float32), np.array([label])
    with qt.use_isa(isa):
        loss, grad = distillation_loss(student, teacher, labels, alpha=0.25)
    assert loss == pytest.approx(0.25 * divergence + 0.75 * cross_entropy, rel=1e-6)
    assert np.abs(grad - exact_gradient(student, [teacher], labels, 1, 0.25)).max() < GRADIENT_ERROR


def test_extreme_temperatures() -> None:
    student, teacher = logits(17, (5, 30)), logits(18, (5, 30))
    for temperature in (1e-6, 1e6):
        loss, grad = distillation_loss(student, [teacher, teacher], temperature=temperature)
        assert math.isfinite(loss) and np.isfinite(grad).all()
    agrees(student, [teacher], None, 1e3, 1.0)


def test_one_class() -> None:
    loss, grad = distillation_loss(logits(19, (4, 1)), logits(20, (4, 1)), np.zeros(4, int), temperature=3)
    assert loss == 0 and not grad.any()


@pytest.mark.promise("A19")
@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (3, 0), (2, 0, 4), (0,)], ids=str)
def test_no_rows_or_no_classes(shape: tuple[int, ...]) -> None:
    nothing = np.zeros(shape, np.float32)
    for labels in (None, np.zeros(shape[:-1], int)) if 0 in shape[:-1] else (None,):
        loss, grad = distillation_loss(nothing, nothing, labels)
        assert (loss, grad.shape, grad.dtype) == (0.0, shape, np.float32)
    assert distillation_loss(nothing, [nothing, nothing])[0] == 0


# Masked classes and labels that are ignored


def some_masked(seed: int, shape: tuple[int, ...], dtype: Any, marks: Array) -> Array:
    x = logits(seed, shape, dtype)
    x[marks] = -np.inf
    return x


@pytest.mark.promise("fault-D5")
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("teachers", [1, 3])
@DTYPES
@ISAS
def test_masked_classes_count_0(isa: str, dtype: Any, teachers: int, temperature: float) -> None:
    """As if they were not there: the loss and gradient of the other classes, and 0 for theirs."""
    shape, few = (6, 37), 21
    marks = np.zeros(shape, np.bool_)
    for row in marks:
        row[np.random.default_rng(int(dtype(1).itemsize)).permutation(37)[few:]] = True
    marks[1] = np.roll(marks[1], 5)
    student = some_masked(1, shape, dtype, marks)
    taught = [some_masked(10 + k, shape, dtype, marks) for k in range(teachers)]
    labels = np.array([int(np.flatnonzero(~row)[k]) for k, row in enumerate(marks)])
    places = np.arange(6)
    with qt.use_isa(isa):
        loss, grad = distillation_loss(student, taught, labels, temperature=temperature, alpha=0.3)
    inner = [a[~marks].reshape(6, few) for a in (student, *taught)]
    assert not grad[marks].any()
    assert loss == pytest.approx(exact(inner[0], inner[1:], places, temperature, 0.3), rel=1e-5)
    want = exact_gradient(inner[0], inner[1:], places, temperature, 0.3)
    assert np.abs(grad[~marks].reshape(6, few) - want).max() <= GRADIENT_ERROR * temperature


@pytest.mark.promise("fault-D5")
@ISAS
def test_classes_that_only_the_teacher_masks(isa: str) -> None:
    """p = 0 there, and the student's gradient is q; one teacher of two leaves half of the other's p."""
    student, teacher = logits(1, (3, 20)), logits(2, (3, 20))
    teacher[:, 4:9] = -np.inf
    with qt.use_isa(isa):
        loss, grad = distillation_loss(student, teacher)
        agrees(student, [teacher], None, 1.0, 1.0)
        agrees(student, [teacher, logits(3, (3, 20))], None, 2.0, 1.0)
    assert math.isfinite(loss) and (grad[:, 4:9] > 0).all()


@pytest.mark.promise("fault-D5")
@pytest.mark.parametrize("ignored", [-100, -1, 3, 2**40])
@ISAS
def test_labels_that_are_ignored(isa: str, ignored: int) -> None:
    """The mean of the labels' part is over those that count; the teachers' is over all rows."""
    student, teacher = logits(4, (2, 5, 9)), logits(5, (2, 5, 9))
    labels = np.array([[0, ignored, 2, 8, ignored], [ignored, 1, 1, 4, 6]])
    rows = labels.ravel() != ignored
    with qt.use_isa(isa):
        loss, grad = distillation_loss(student, teacher, labels, temperature=2, alpha=0.4, ignore_index=ignored)
        nothing = distillation_loss(student, teacher, np.full((2, 5), ignored), alpha=0.4, ignore_index=ignored)
        soft = distillation_loss(student, teacher)
    x, t, y = student.reshape(10, 9), teacher.reshape(10, 9), labels.ravel()
    soft_part = exact(x, [t], np.zeros(10, int), 2, 1.0)
    hard_part = exact(x[rows], [t[rows]], y[rows], 2, 0.0)
    assert loss == pytest.approx(0.4 * soft_part + 0.6 * hard_part, rel=1e-5)
    want = 0.4 * exact_gradient(x, [t], np.zeros(10, int), 2, 1.0)
    want[rows] += 0.6 * exact_gradient(x[rows], [t[rows]], y[rows], 2, 0.0)
    assert np.abs(grad.reshape(10, 9) - want).max() <= GRADIENT_ERROR
    assert nothing[0] == pytest.approx(0.4 * soft[0], rel=1e-6)
    np.testing.assert_allclose(nothing[1], 0.4 * soft[1], rtol=1e-5, atol=1e-8)


@pytest.mark.promise("fault-D5")
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64, np.int64])
def test_ignored_labels_of_every_integer_dtype(dtype: Any) -> None:
    student, teacher = logits(4, (4, 9)), logits(5, (4, 9))
    want = distillation_loss(student, teacher, [0, -100, 8, 1])
    given = np.array([0, 3, 8, 1], dtype)
    loss, grad = distillation_loss(student, teacher, given, ignore_index=3)
    assert loss == want[0] and grad.tobytes() == want[1].tobytes() and given[1] == 3


@pytest.mark.promise("fault-D5")
@ISAS
def test_what_masks_cannot_mean(isa: str) -> None:
    student, teacher = logits(6, (3, 40)), logits(7, (3, 40))
    masked, labels = student.copy(), np.array([1, 2, 3])
    masked[1, 37] = masked[2, 3] = -np.inf
    alone = teacher.copy()
    alone[2] = -np.inf
    with qt.use_isa(isa):
        with pytest.raises(
            ValueError, match=r"not be -inf where the teachers' probability is above 0, as in row 1, cla.* 37"
        ):
            distillation_loss(masked, teacher)
        with pytest.raises(
            ValueError, match=r"not be -inf where the teachers' probability is above 0, as in row 1, cla.* 37"
        ):
            distillation_loss(masked, [np.where(np.isinf(masked), masked, teacher), teacher], labels)
        with pytest.raises(ValueError, match="student_logits must not be -inf at a label, as in row 2, class 3"):
            distillation_loss(masked, np.where(np.isinf(masked), masked, teacher), labels)
        with pytest.raises(ValueError, match="student_logits must not be -inf at a label, as in row 2, class 3"):
            distillation_loss(masked, teacher, labels, alpha=0)
        with pytest.raises(ValueError, match=r"teacher_logits must have a finite logit in each row, .* alone in row 2"):
            distillation_loss(student, alone)
        with pytest.raises(ValueError, match=r"student_logits must have a finite logit in each row, .* alone in row 2"):
            distillation_loss(alone, teacher, labels)
        loss, grad = distillation_loss(masked, teacher, [1, 2, 4], alpha=0)  # the teachers' part is left out
        assert loss == pytest.approx(-log_softmax(masked)[[0, 1, 2], [1, 2, 4]].mean(), rel=1e-5)
        assert grad[1, 37] == 0
        distillation_loss(masked, np.where(np.isinf(masked), masked, teacher), labels, alpha=1)


@pytest.mark.promise("fault-D5")
@pytest.mark.parametrize("lowest", [-np.inf, -3e38])
@ISAS
def test_what_alpha_leaves_out_is_nothing(isa: str, lowest: float) -> None:
    """Also where it would be infinite: of so many classes that the student alone holds impossible."""
    student, teacher = np.full((2, 40), lowest, np.float32), np.zeros((2, 40), np.float32)
    student[:, :2] = 0
    with qt.use_isa(isa):
        loss, grad = distillation_loss(student, teacher, [0, 1], alpha=0)
    assert loss == pytest.approx(math.log(2), rel=1e-6)
    np.testing.assert_allclose(grad[:, :2], [[-0.25, 0.25], [0.25, -0.25]], rtol=1e-6)
    assert not grad[:, 2:].any()


@pytest.mark.promise("fault-D5")
@pytest.mark.parametrize("value", [True, 1.0, "1", None, 2**63], ids=repr)
def test_ignore_index_out_of_range(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="ignore_index must be an integer of"):
        distillation_loss(logits(0, (4, 5)), logits(1, (4, 5)), [0, 0, 0, 0], ignore_index=value)


# Refusals


@pytest.mark.promise("A1", "A2")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@ISAS
def test_not_finite(isa: str, bad: float) -> None:
    """In the student or any teacher, at any place: the argument, the count and the first place."""
    with qt.use_isa(isa):
        for at in (0, 15, 16, 36, 37, 73):
            arrays = [logits(k, (2, 37)) for k in range(3)]
            for k, name in enumerate((r"student_logits", r"teacher_logits\[0\]", r"teacher_logits\[1\]")):
                broken = [a.copy() for a in arrays]
                broken[k].reshape(-1)[at] = bad
                found = f"{name} must be finite, but has 1 NaN .* of 74 values, the first {bad} at flat index {at}"
                with pytest.raises(ValueError, match=found):
                    distillation_loss(broken[0], broken[1:], [0, 1])


@pytest.mark.promise("A13")
@pytest.mark.parametrize("label", [-1, 5, -101, 2**62], ids=repr)
def test_label_out_of_range(label: int) -> None:
    labels = np.array([0, 4, label, 9])
    with pytest.raises(ValueError, match=rf"labels must be 0\.\.4 or -100, not {label} at flat index 2"):
        distillation_loss(logits(0, (4, 5)), logits(1, (4, 5)), labels)


@pytest.mark.promise("A29")
def test_labels_of_other_dtypes() -> None:
    student, teacher = logits(0, (4, 5)), logits(1, (4, 5))
    want = bits_of(distillation_loss(student, teacher, [0, 4, 2, 2])[1])
    for dtype in ("i1", "u1", ">i2", "u8"):
        assert bits_of(distillation_loss(student, teacher, np.array([0, 4, 2, 2], dtype))[1]) == want
    for wrong in (np.zeros(4), np.zeros(4, bool), np.eye(4, 5), ["0"] * 4):
        with pytest.raises(TypeError, match="labels must be integers, not"):
            distillation_loss(student, teacher, wrong)
    with pytest.raises(ValueError, match=rf"labels must be 0\.\.4 or -100, not {2**64 - 1} at flat index 0"):
        distillation_loss(student, teacher, np.full(4, 2**64 - 1, np.uint64))


@pytest.mark.promise("B46")
def test_shapes_that_do_not_match() -> None:
    x = logits(0, (4, 5))
    for wrong in (x[:3], x.T, x[:, :4], x[None, :3], x[None, None], np.zeros((0, 4, 5), np.float32), x[0]):
        with pytest.raises(ValueError, match=r"teacher_logits must have shape \(4, 5\), or one axis more"):
            distillation_loss(x, wrong)
    with pytest.raises(ValueError, match=r"teacher_logits\[1\] must have shape \(4, 5\), not \(3, 5\)"):
        distillation_loss(x, [x, x[:3]])
    with pytest.raises(ValueError, match="teacher_logits must hold at least one teacher, not none"):
        distillation_loss(x, [])
    for labels in (np.zeros(3, int), np.zeros((4, 1), int), np.zeros((4, 5), int), 0):
        with pytest.raises(ValueError, match=r"labels must have shape \(4,\), one for each row of student_logits, not"):
            distillation_loss(x, x, labels)


@pytest.mark.promise("B44")
@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan, math.inf, True, "0.5", None, 1j], ids=repr)
def test_alpha_out_of_range(alpha: Any) -> None:
    for labels in (None, np.zeros(4, int)):
        with pytest.raises((ValueError, TypeError), match=r"alpha must be a number of 0\.0\.\.1\.0, not"):
            distillation_loss(logits(0, (4, 5)), logits(1, (4, 5)), labels, alpha=alpha)


@pytest.mark.promise("B44")
@pytest.mark.parametrize("temperature", [0, -1.0, 1e-7, 1e7, math.nan, math.inf, True, "1", None], ids=repr)
def test_temperature_out_of_range(temperature: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"temperature must be a number of 1e-06\.\.1000000\.0, not"):
        distillation_loss(logits(0, (4, 5)), logits(1, (4, 5)), temperature=temperature)


@pytest.mark.promise("A32")
def test_out_may_not_share_memory_with_labels_or_logits() -> None:
    x = logits(0, (4, 5))
    memory = np.zeros(20, np.int64)
    with pytest.raises(ValueError, match="out must be apart from every input"):
        distillation_loss(x, x, memory[:4], out=memory.view(np.float32)[:20].reshape(4, 5))
    for student, teacher in ((x, x + 1), (x + 1, x), (x + 1, np.stack([x, x]))):
        out = teacher[0] if teacher.ndim == 3 else x
        with pytest.raises(ValueError, match="out must be apart from every input"):
            distillation_loss(student, teacher, out=out)


def test_the_compiled_module_reads_and_writes_within_its_arrays() -> None:
    """What the public function has checked is derived again."""
    x, loss, grad = logits(0, (4, 5)), np.zeros(4), np.zeros((4, 5), np.float32)
    compiled = backend._core.distill
    for labels in ([0, 0, 0, 5], [-2, 0, 0, 0]):
        with pytest.raises(ValueError, match="labels must be columns of student, or -1"):
            compiled(x, [x], np.array(labels), 1.0, 0.5, loss, grad)
    with pytest.raises(ValueError, match="labels must have 4 elements, not 3"):
        compiled(x, [x], np.zeros(3, np.int64), 1.0, 0.5, loss, grad)
    with pytest.raises(ValueError, match="teachers must have 20 elements, not 15"):
        compiled(x, [x, x[:3]], None, 1.0, 1.0, loss, grad)
    with pytest.raises(ValueError, match="there must be a teacher and a class"):
        compiled(x, [], None, 1.0, 1.0, loss, grad)
    with pytest.raises(ValueError, match="grad must have 20 elements, not 15"):
        compiled(x, [x], None, 1.0, 1.0, loss, grad[:3])
    with pytest.raises(ValueError, match="loss must have 4 elements, not 2"):
        compiled(x, [x], None, 1.0, 1.0, loss[:2], grad)


@pytest.mark.parametrize("sign", ["student", "label", "temperature"])
def test_control_a_wrong_gradient_is_seen(sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three usual mistakes: p and q exchanged, the label left out, T**2 forgotten."""
    right = backend.active.distill

    def wrong(student: Array, teachers: Any, labels: Any, t: float, alpha: float, loss: Array, grad: Array) -> bool:
        good = bool(right(student, teachers, labels, t, alpha, loss, grad))
        if sign == "student":
            np.negative(grad, out=grad)
        elif sign == "label":
            grad[np.arange(len(grad)), labels] += np.float32((1 - alpha) / len(grad))
        else:
            grad /= t * t
        return good

    with qt.use_isa("reference"):
        right = backend.active.distill
        monkeypatch.setattr(backend.active, "distill", wrong)
        with pytest.raises(AssertionError):
            agrees(logits(1, (7, 33)), [logits(2, (7, 33))], np.arange(7), 2.0, 0.5)
