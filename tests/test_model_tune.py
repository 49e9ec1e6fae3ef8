"""tune: against brute force on random spaces, how many evaluations it takes, and what it refuses."""

from __future__ import annotations

import importlib
import itertools
import math
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quantrim import _core
from quantrim.model import Tuned, tune

MODULE: Any = importlib.import_module("quantrim.model.tune")  # the package has the function by that name
Point = tuple[int, ...]
UP = 0x4000 if platform.machine() == "x86_64" else 1 << 22  # round towards plus infinity


@dataclass
class Model:
    """Scores in a table, an axis for each of the space; remembers what it was asked."""

    table: NDArray[Any]
    space: dict[str, list[Any]]
    max_drop: float
    cost: Callable[[dict[str, Any]], float] | None = None

    def __post_init__(self) -> None:
        self.asked: list[Point] = []

    def point(self, settings: dict[str, Any]) -> Point:
        assert list(settings) == list(self.space)
        return tuple(self.space[name].index(choice) for name, choice in settings.items())

    def evaluate(self, settings: dict[str, Any]) -> float:
        self.asked.append(self.point(settings))
        return float(self.table[self.asked[-1]])

    def good(self, point: Point) -> bool:
        return float(self.table.flat[0] - self.table[point]) <= self.max_drop

    def tuned(self, **options: Any) -> Tuned:
        self.asked.clear()
        return tune(self.evaluate, self.space, self.max_drop, cost=self.cost, **options)


def bound(shape: tuple[int, ...]) -> int:
    """The most evaluations that the docstring allows."""
    steps = [math.ceil(math.log2(n)) for n in shape]
    return 1 + max(steps) + (sum(steps) if len(shape) > 1 else 0)


def random_model(seed: int, dimensions: int, monotone: bool = True) -> Model:
    """Whole scores, so that ties and drops of exactly max_drop are common. In half of them one step may cost all."""
    rng = np.random.default_rng([seed, dimensions])
    shape = tuple(rng.integers(1, 14 if dimensions < 4 else 6, dimensions).tolist())
    steps = rng.integers(0, 4, shape) * (rng.random(shape) < 0.7)
    if rng.random() < 0.5:
        steps += 1000 * (rng.random(shape) < 0.05)
    table = -steps
    for axis in range(dimensions):
        table = table.cumsum(axis)
    if not monotone:
        table = rng.integers(-20, 20, shape)
    drop = int(rng.integers(0, 1 + table.flat[0] - min(-1, table.min()))) if rng.random() < 0.7 else 5
    space = {f"layer {axis}": choices(rng, n) for axis, n in enumerate(shape)}
    model = Model(table, space, drop)
    if rng.random() < 0.5:
        weights = rng.integers(0, 4, dimensions)
        model.cost = lambda settings: float(-(weights * model.point(settings)).sum())
    return model


def choices(rng: np.random.Generator, n: int) -> list[Any]:
    kinds = [list(range(n)), [8 - k / 2 for k in range(n)], [f"choice {k * 7 % 11} {k}" for k in range(n)]]
    kinds.append([None, *(f"{k}:32" for k in range(1, n))])
    return kinds[int(rng.integers(len(kinds)))]


def steps_from(point: Point, shape: tuple[int, ...]) -> Iterator[Point]:
    for axis, k in enumerate(point):
        if k + 1 < shape[axis]:
            yield (*point[:axis], k + 1, *point[axis + 1 :])


def check(model: Model, tuned: Tuned, monotone: bool = True) -> None:
    """All that is promised of a search that was not cut short."""
    shape, point = model.table.shape, model.point(tuned.settings)
    assert tuned.baseline == model.table.flat[0] and tuned.score == model.table[point]
    assert model.good(point) and point in model.asked, "the answer was evaluated and found good"
    assert [(model.point(settings), score) for settings, score in tuned.evaluations] == [
        (asked, model.table[asked]) for asked in model.asked
    ]
    assert len(set(model.asked)) == len(model.asked) <= bound(shape)
    assert tuned.complete and model.asked[0] == (0,) * len(shape)
    if monotone:
        assert not any(model.good(further) for further in steps_from(point, shape)), "the answer is maximal"
    if monotone and len(shape) == 1:
        assert point[0] == max(k for k in range(shape[0]) if model.good((k,)))


def check_many(monotone: bool = True) -> None:
    for seed, dimensions in itertools.product(range(150), (1, 2, 3, 5)):
        model = random_model(seed, dimensions, monotone)
        check(model, model.tuned(), monotone)


# Against brute force


def test_the_answer_is_maximal_on_monotone_spaces() -> None:
    check_many()


def test_scores_that_are_not_monotone_still_give_a_good_answer() -> None:
    check_many(monotone=False)


@pytest.mark.parametrize("n", range(1, 40))
def test_one_axis_is_optimal_wherever_the_edge_is(n: int) -> None:
    for edge in range(n):
        model = Model(-(np.arange(n) > edge).astype(int), {"sparsity": [k / n for k in range(n)]}, 0)
        tuned = model.tuned()
        check(model, tuned)
        assert tuned.settings == {"sparsity": edge / n}


def test_random_spaces_are_of_all_kinds() -> None:
    """Answers in the corners and between; spaces where all axes together stop early and one alone goes on."""
    models = [random_model(seed, 2) for seed in range(300)]
    ends = [model.point(model.tuned().settings) for model in models]
    last = [tuple(n - 1 for n in model.table.shape) for model in models]
    assert sum(e == z for e, z in zip(ends, last, strict=True)) >= 5
    assert sum(not any(e) and any(z) for e, z in zip(ends, last, strict=True)) >= 5
    assert sum(any(0 < a < b for a, b in zip(e, z, strict=True)) for e, z in zip(ends, last, strict=True)) >= 30


# Planted bugs: each must be seen by the checks above


def stops_early(count: int, good: Callable[[int], bool]) -> int:
    low, high = 0, count
    while high - low > 2:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def never_the_last(count: int, good: Callable[[int], bool]) -> int:
    return int(MODULE_LAST_GOOD(max(1, count - 1), good))


def one_too_far(count: int, good: Callable[[int], bool]) -> int:
    return min(count - 1, int(MODULE_LAST_GOOD(count, good)) + 1)


def one_by_one(count: int, good: Callable[[int], bool]) -> int:
    return next((k - 1 for k in range(1, count) if not good(k)), count - 1)


MODULE_LAST_GOOD = MODULE.last_good


@pytest.mark.parametrize("bug", [stops_early, never_the_last, one_too_far, one_by_one])
def test_planted_bugs_of_the_bisection_are_seen(bug: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "last_good", bug)
    with pytest.raises((AssertionError, KeyError)):
        check_many()


def test_a_planted_bug_of_the_limit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What scored too low on the first axis of the space ends the search along all others."""
    right = MODULE._Search.open_lines
    monkeypatch.setattr(MODULE._Search, "open_lines", lambda self, axes: {} if self._bad else right(self, axes))
    with pytest.raises(AssertionError, match="maximal"):
        check_many()


# Order


SPACE = {"bits": [8, 6, 5, 4], "sparsity": [0.0, 0.25, 0.5, 0.75]}


def grid(settings: dict[str, Any]) -> float:
    """Each step on either axis takes 1."""
    return 0.0 - float(SPACE["bits"].index(settings["bits"]) + SPACE["sparsity"].index(settings["sparsity"]))


def test_all_axes_first_then_each_in_the_order_of_the_space() -> None:
    tuned = tune(grid, SPACE, 3)
    tried = [tuple(settings.values()) for settings, _ in tuned.evaluations]
    assert tried == [(8, 0.0), (5, 0.5), (6, 0.25), (5, 0.25), (4, 0.25), (6, 0.5)][: len(tried)]
    assert tuned.settings == {"bits": 5, "sparsity": 0.25} and tuned.drop == 3


def test_what_costs_least_goes_first() -> None:
    def cost(settings: dict[str, Any]) -> float:
        return float(settings["bits"] * (1 - settings["sparsity"]))

    tuned = tune(grid, SPACE, 3, cost=cost)
    assert tuned.settings == {"bits": 6, "sparsity": 0.5}
    assert tune(grid, SPACE, 3, cost=lambda s: float(s["bits"])).settings == {"bits": 5, "sparsity": 0.25}
    assert tune(grid, SPACE, 3, cost=lambda s: 0).settings == tune(grid, SPACE, 3).settings


def test_axes_of_other_lengths_move_together() -> None:
    tuned = tune(lambda _: 0, {"long": range(9), "short": ["a", "b", "c"], "held": ["only"]}, 0)
    assert [tuple(settings.values()) for settings, _ in tuned.evaluations] == [
        (0, "a", "only"),
        (4, "b", "only"),
        (6, "c", "only"),  # round(6 * 2 / 8) is 1.5, upwards
        (7, "c", "only"),
        (8, "c", "only"),
    ]


def test_the_same_every_time() -> None:
    for seed in range(40):
        model = random_model(seed, 3)
        assert model.tuned() == model.tuned()


# Baseline, drop, budget


def test_the_baseline_may_be_that_of_another_model() -> None:
    assert tune(grid, SPACE, 1, baseline=0.5).settings == {"bits": 8, "sparsity": 0.0}
    assert tune(grid, SPACE, 3, baseline=-1).drop == 3
    with pytest.raises(ValueError, match=r"mildest settings must be at least baseline - max_drop = 2 - 1, not 0$"):
        tune(grid, SPACE, 1, baseline=2)


@pytest.mark.parametrize(("baseline", "drop"), [(0.8, 0.1), (0.9, 0.3), (355 / 360, 3 / 360), (-0.7, 0.1), (0.0, 0.1)])
def test_a_drop_of_exactly_max_drop_is_within_it(baseline: float, drop: float) -> None:
    decimals = round(baseline - drop, 12) if len(str(baseline)) < 6 else 352 / 360
    for score, good in ((decimals, True), (decimals - 1e-9, False)):
        scores = {0: baseline, 1: score}
        tuned = tune(lambda settings, scores=scores: scores[settings["k"]], {"k": [0, 1]}, drop)  # type: ignore[misc]
        assert tuned.settings == {"k": int(good)}


def test_a_budget_gives_the_strongest_so_far() -> None:
    for seed, dimensions in itertools.product(range(30), (1, 3)):
        model = random_model(seed, dimensions)
        whole = model.tuned()
        for most in range(1, len(whole.evaluations) + 2):
            tuned = model.tuned(max_evaluations=most)
            assert tuned.evaluations == whole.evaluations[:most]
            good = [settings for settings, score in tuned.evaluations if score >= whole.baseline - model.max_drop]
            assert tuned.settings == good[-1], "good ones form a chain"
            assert tuned.complete is (most >= len(whole.evaluations))


def test_minus_infinity_is_a_score() -> None:
    tuned = tune(lambda settings: np.float32(-np.inf) if settings["bits"] < 4 else 1, {"bits": [8, 6, 4, 3, 2]}, 0)
    assert tuned.settings == {"bits": 4} and tuned.evaluations[-1] == ({"bits": 3}, -math.inf)


# Who is called with what


def test_progress_sees_each_evaluation_and_the_end() -> None:
    calls: list[tuple[int, int, str]] = []
    tuned = tune(grid, SPACE, 3, progress=lambda *call: calls.append(call))
    count = len(tuned.evaluations)
    assert [done for done, _, _ in calls] == list(range(count + 1))
    assert {total for _, total, _ in calls[:-1]} == {1 + 2 + 4} and calls[-1][1] == count
    assert [text for _, _, text in calls[:3]] == [
        "the mildest settings",
        "bits=5, sparsity=0.5",
        "bits=6, sparsity=0.25",
    ]
    assert calls[3][2] == "bits=5" and calls[-1][2] == "bits=5, sparsity=0.25"
    calls.clear()
    tune(grid, SPACE, 3, max_evaluations=3, progress=lambda *call: calls.append(call))
    assert calls[0][1] == 3


def test_what_is_changed_by_the_caller_stays_with_the_caller() -> None:
    space: dict[str, Any] = {"bits": [8, 4], "sparsity": np.array([0, 0.5])}

    def evaluate(settings: dict[str, Any]) -> float:
        assert settings in ({"bits": 8, "sparsity": 0}, {"bits": 4, "sparsity": 0.5})
        assert [type(choice) for choice in settings.values()] == [int, float]
        settings.clear()
        space.clear()
        return 1

    tuned = tune(evaluate, space, 0)
    assert tuned.settings == tuned.evaluations[1][0] == {"bits": 4, "sparsity": 0.5}
    with pytest.raises(FrozenInstanceError):
        tuned.score = 2  # type: ignore[misc]


@pytest.mark.promise("A6", "F121")
def test_in_the_default_mode() -> None:
    """Of the caller's mode nothing is seen, and it stays."""
    modes = set()

    def evaluate(settings: dict[str, Any]) -> float:
        modes.add(_core.float_mode())
        return 1.0

    _core.use_float_mode(UP)
    try:
        tune(evaluate, SPACE, 0.1)
        after = _core.float_mode()
    finally:
        _core.use_float_mode(0)
    assert modes == {0} and after == UP


@pytest.mark.promise("E115")
def test_what_evaluate_or_progress_raise_comes_out_as_it_is() -> None:
    class Mine(Exception):
        pass

    def fail(*_: Any) -> float:
        raise Mine("out of images")

    for options in ({}, {"cost": fail}, {"progress": fail}):
        with pytest.raises(Mine) as caught:
            tune(grid if options else fail, SPACE, 3, **options)  # type: ignore[arg-type]
        assert caught.value.args == ("out of images",)
        notes = getattr(caught.value, "__notes__", [])
        if sys.version_info >= (3, 11) and "progress" not in options:
            name, settings = ("cost", "bits=4, sparsity=0.25") if options else ("evaluate", "bits=8, sparsity=0.0")
            assert notes == [f"{name} was called with {settings}"]


# Refusals


@pytest.mark.promise("B44")
@pytest.mark.parametrize(
    ("value", "error"),
    [(math.nan, ValueError), (np.float32("nan"), ValueError), (math.inf, ValueError), (None, TypeError),
     ("0.9", TypeError), (True, TypeError), ([0.9], TypeError), (1j, TypeError), (10**400, ValueError)],
    ids=repr,
)  # fmt: skip
def test_scores_and_costs_must_be_numbers(value: Any, error: type[Exception]) -> None:
    def from_the_second(settings: dict[str, Any]) -> Any:
        return value if settings["bits"] < 8 else 1

    with pytest.raises(error, match=r"what evaluate returns must be a number .*, for bits=8, sparsity=0\.0$"):
        tune(lambda _: value, SPACE, 1)
    with pytest.raises(error, match=r"what evaluate returns must be a number .*, for bits=5, sparsity=0\.5$"):
        tune(from_the_second, SPACE, 1)
    with pytest.raises(error, match=r"what cost returns must be a number .*, for bits=4, sparsity=0\.25$"):
        tune(grid, SPACE, 3, cost=lambda _: value)


@pytest.mark.promise("B44")
def test_the_baseline_must_be_finite() -> None:
    with pytest.raises(ValueError, match="score of the mildest settings must be finite to be the baseline, not -inf"):
        tune(lambda _: -math.inf, SPACE, 1)
    with pytest.raises(ValueError, match=r"score of the mildest settings must be at least .*, not -inf"):
        tune(lambda _: -math.inf, SPACE, 1, baseline=0)
    with pytest.raises(ValueError, match=r"what cost returns must be a number .*, not -inf"):
        tune(grid, SPACE, 3, cost=lambda _: -math.inf)


@pytest.mark.promise("B44")
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "1", None, True], ids=repr)
def test_max_drop_out_of_range(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"max_drop must be a number of 0\.0\.\.inf, not"):
        tune(grid, SPACE, value)


@pytest.mark.promise("B44")
@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True], ids=repr)
def test_baseline_out_of_range(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="baseline must be a number of"):
        tune(grid, SPACE, 1, baseline=value)


@pytest.mark.promise("B40")
@pytest.mark.parametrize("value", [0, -1, 2.5, "9", True], ids=repr)
def test_max_evaluations(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"max_evaluations must be an integer of 1\.\."):
        tune(grid, SPACE, 1, max_evaluations=value)


@pytest.mark.promise("B48")
@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "space must have at least one axis, not 0"),
        ([("bits", [8, 4])], "space must be a mapping of name -> choices, not list"),
        ({8: [1, 2]}, "space must have names of str, not 8"),
        ({"bits": []}, r"space\['bits'\] must have at least one choice, not 0"),
        ({"bits": 8}, r"space\['bits'\] must be a sequence of choices, mildest first, not int"),
        ({"bits": "842"}, r"space\['bits'\] must be a sequence of choices, mildest first, not str"),
        ({"bits": {8, 4}}, r"space\['bits'\] must be a sequence of choices, mildest first, not set"),
        ({"bits": iter([8, 4])}, r"space\['bits'\] must be a sequence of choices, mildest first, not list_iterator"),
        ({"bits": np.zeros((2, 2))}, r"space\['bits'\] must be a sequence of choices, mildest first, not ndarray"),
        ({"bits": [8, 4, 6, 8.0]}, r"space\['bits'\] must have no choice twice, but 8 is number 0 and 3"),
        ({"prune": [None, "2:4", None]}, r"space\['prune'\] must have no choice twice, but None is number 0 and 2"),
        ({"bits": [8, 4, 6]}, r"space\['bits'\] must increase or decrease throughout, not be \(8, 4, 6\)"),
        ({"sparsity": [0, math.nan, 1]}, r"space\['sparsity'\] must increase or decrease throughout"),
    ],
    ids=lambda x: x if isinstance(x, str) else "space",
)  # fmt: skip
def test_spaces_that_are_none(space: Any, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        tune(grid, space, 1)


@pytest.mark.promise("B48")
def test_what_must_be_callable() -> None:
    with pytest.raises(TypeError, match="evaluate must be callable, not dict"):
        tune(SPACE, grid, 1)  # type: ignore[arg-type]
    for name in ("cost", "progress"):
        with pytest.raises(TypeError, match=f"{name} must be callable, not float"):
            tune(grid, SPACE, 1, **{name: 0.5})  # type: ignore[arg-type]
