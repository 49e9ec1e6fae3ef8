"""The most aggressive settings that keep the score within a given drop, found with few evaluations."""

from __future__ import annotations

import itertools
import math
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..files.disk.errors import quote
from ..float_environment import default_floats

Evaluate = Callable[[dict[str, Any]], float]
Progress = Callable[[int, int, str], object]  # evaluations done, how many at most, the settings at work
Point = tuple[int, ...]  # settings: on each axis of the space, the number of its choice

ROUNDING = 2.0**-50  # of what is subtracted: 0.8 - 0.7 is more than 0.1 in float64, and no worse a score for that


@dataclass(frozen=True)
class Tuned:
    """settings: the strongest that were found. score: theirs. baseline: what scores were held against. evaluations:
    all that were made, in order: settings and score. complete: whether no axis can move further; False where
    max_evaluations was spent first."""

    settings: dict[str, Any]
    score: float
    baseline: float
    evaluations: tuple[tuple[dict[str, Any], float], ...]
    complete: bool = True

    @property
    def drop(self) -> float:
        """The distance of the score below the baseline; negative where it is above."""
        return self.baseline - self.score


@default_floats
def tune(
    evaluate: Evaluate,
    space: Mapping[str, Sequence[Any] | NDArray[Any]],
    max_drop: float,
    *,
    baseline: float | None = None,
    cost: Evaluate | None = None,
    max_evaluations: int | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Find the most aggressive settings that keep the score at or above baseline - max_drop.

    evaluate: called with settings, a dict of name -> choice; returns the score of the model compressed with them,
        higher is better (accuracy; perplexity negated). NaN is refused, -inf is a score like others.
    space: name -> choices from the mildest to the strongest, a sequence without duplicates; numbers must rise
        or decrease throughout.
    max_drop: how far the score may be below the baseline, in the unit of the score; 0 or more.
    baseline: the score of the mildest settings unless given (that of the original model, say).
    cost: called with settings; returns their size in any unit. It decides which axis goes first, and is asked
        about n**2 / 2 times for n axes.
    max_evaluations: 1 or more; when they are spent, the most aggressive settings so far are the result.
    progress: called with (evaluations done, how many at most, the settings at work) before each evaluation and at the
        end. What it or `evaluate` raises ends the search.

    A stronger choice is taken to score no better, and to be smaller. Then bisection finds the last good choice of n in
    ceil(log2 n) evaluations. It is used first on all axes moved together (at strength t of 0..m - 1, an axis of n
    choices takes number round(t (n - 1) / (m - 1)), where m is the longest), then on each axis with the others
    held. Next is always the axis whose strongest choice costs least, or without `cost` the first of the space. What is
    at least as strong on every axis as settings that scored too low is not tried. So no axis of the result can move
    one step further, and there are at most

        1 + ceil(log2 m) + sum over axes of ceil(log2 n)

    evaluations, without the sum for a single axis, each of different settings. Other combinations may be smaller yet:
    what one axis takes of the drop, the next has not. Where scores are not monotone (few images, say), the result is
    still one that was evaluated and found good. Choosing by a score flatters it: report that of other data.

    ValueError for scores or costs that are not numbers, and where the mildest settings score too low already.
    `evaluate` and `cost` run in the default floating-point mode.

    >>> import quantrim as qt
    >>> w = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    >>> def evaluate(settings):
    ...     q = qt.quantize(qt.prune(w, settings["sparsity"]), settings["bits"])
    ...     return np.corrcoef(w.ravel(), q.dequantize().ravel())[0, 1]
    >>> tuned = tune(evaluate, {"sparsity": np.arange(10) / 10, "bits": [8, 6, 5, 4, 3, 2]}, max_drop=0.02)
    >>> tuned.settings, round(tuned.score, 3), len(tuned.evaluations)
    ({'sparsity': 0.4, 'bits': 5}, 0.981, 9)
    """
    for name, function in (("evaluate", evaluate), ("cost", cost), ("progress", progress)):
        if not callable(function) and (function is not None or name == "evaluate"):
            raise TypeError(f"{name} must be callable, not {type(function).__name__}")
    axes = _axes(space)
    allowed = checks.number("max_drop", max_drop, 0.0, math.inf)
    given = None if baseline is None else checks.number("baseline", baseline, -math.inf, math.inf)
    bound = _bound([len(choices) for choices in axes.values()])
    if max_evaluations is not None:
        bound = min(bound, checks.integer("max_evaluations", max_evaluations, 1, 2**63 - 1))
    search = _Search(evaluate, axes, bound, progress)
    search.start(given, allowed)
    search.move(_together(axes))
    waiting = set(range(len(axes)))
    while search.complete and (lines := search.open_lines(waiting)):
        axis = _cheapest(lines, search.settings, cost)
        search.move(lines[axis])
        waiting.remove(axis)
    return search.result()


class _Search:
    """The evaluations so far, and the most aggressive settings that are known to be good.

    Points that are good form a chain: each is as strong as those before it, on every axis.
    """

    def __init__(
        self, evaluate: Evaluate, axes: dict[str, tuple[Any, ...]], bound: int, progress: Progress | None
    ) -> None:
        self._evaluate, self._axes, self._bound, self._progress = evaluate, axes, bound, progress
        self._scores: dict[Point, float] = {}
        self._bad: list[Point] = []
        self._point: Point = (0,) * len(axes)
        self._baseline = self._least = -math.inf
        self.complete = True

    def settings(self, point: Point) -> dict[str, Any]:
        return {name: choices[k] for (name, choices), k in zip(self._axes.items(), point, strict=True)}

    def start(self, baseline: float | None, max_drop: float) -> None:
        """Evaluate the mildest settings, which must be good."""
        score = self._score(self._point)
        if baseline is None and math.isinf(score):
            raise ValueError(f"the score of the mildest settings must be finite to be the baseline, not {score}")
        self._baseline = score if baseline is None else baseline
        self._least = self._baseline - max_drop - ROUNDING * max(abs(self._baseline), max_drop)
        if score < self._least:
            wanted = f"at least baseline - max_drop = {self._baseline:.6g} - {max_drop:.6g}"
            raise ValueError(f"the score of the mildest settings must be {wanted}, not {score:.6g}")

    def open_lines(self, axes: set[int]) -> dict[int, list[Point]]:
        """List the axes that can move: the points along each from the current one that are not known as bad."""
        ends = [len(choices) for choices in self._axes.values()]
        for bad in self._bad:
            above = [axis for axis, k in enumerate(bad) if k > self._point[axis]]
            if len(above) == 1:  # as strong on every other axis: so is all behind it on this one
                ends[above[0]] = min(ends[above[0]], bad[above[0]])
        here = self._point
        lines = {
            axis: [(*here[:axis], k, *here[axis + 1 :]) for k in range(here[axis], ends[axis])] for axis in sorted(axes)
        }
        return {axis: line for axis, line in lines.items() if len(line) > 1}

    def move(self, line: list[Point]) -> None:
        """Go to the last good point of a line that starts at the current one."""
        self._point = line[last_good(len(line), lambda number: self._good(line[number]))]

    def _good(self, point: Point) -> bool:
        """Tell whether a point is good; False as well where no evaluation is left."""
        if point not in self._scores and len(self._scores) == self._bound:
            self.complete = False
            return False
        good = self._score(point) >= self._least
        if not good:
            self._bad.append(point)
        return good

    def _score(self, point: Point) -> float:
        if point not in self._scores:
            settings = self.settings(point)
            changed = {
                name: c for (name, c), k, now in zip(settings.items(), point, self._point, strict=True) if k != now
            }
            text = _text(changed) if changed else "the mildest settings"
            self._report(self._bound, text)
            self._scores[point] = _called("evaluate", self._evaluate, settings, lowest=-math.inf)
        return self._scores[point]

    def _report(self, total: int, text: str) -> None:
        if self._progress is not None:
            self._progress(len(self._scores), total, text)

    def result(self) -> Tuned:
        settings = self.settings(self._point)
        self._report(len(self._scores), _text(settings))
        evaluations = tuple((self.settings(point), score) for point, score in self._scores.items())
        return Tuned(settings, self._scores[self._point], self._baseline, evaluations, self.complete)


def last_good(count: int, good: Callable[[int], bool]) -> int:
    """Find the last of 0..count - 1 that is good, in at most ceil(log2 count) questions.

    0 is good, and after one that is not, none is. Where that does not hold: one that was found good, or 0."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        if good(middle):
            low = middle
        else:
            high = middle
    return low


def _together(axes: dict[str, tuple[Any, ...]]) -> list[Point]:
    """List steps of all axes together, from the mildest to the strongest, as many as the longest has."""
    last = max(len(choices) for choices in axes.values()) - 1
    lengths = [len(choices) for choices in axes.values()]
    return [
        tuple((2 * t * (n - 1) + last) // (2 * last) for n in lengths) if t else (0,) * len(axes)
        for t in range(last + 1)
    ]


def _bound(lengths: list[int]) -> int:
    """Bound the evaluations; ceil(log2 n) is (n - 1).bit_length()."""
    steps = [(n - 1).bit_length() for n in lengths]
    several = sum(n > 1 for n in lengths) > 1
    return 1 + max(steps) + (sum(steps) if several else 0)


def _cheapest(lines: dict[int, list[Point]], settings: Callable[[Point], dict[str, Any]], cost: Evaluate | None) -> int:
    """Choose the axis whose line ends where it costs least, the first of equals."""
    if cost is None or len(lines) == 1:
        return min(lines)
    return min(lines, key=lambda axis: _called("cost", cost, settings(lines[axis][-1])))


def _called(name: str, function: Evaluate, settings: dict[str, Any], lowest: float | None = None) -> float:
    """Return what the function says of the settings: a finite number, or `lowest`."""
    try:
        value = function(dict(settings))
    except Exception as error:
        if sys.version_info >= (3, 11):
            error.add_note(f"{name} was called with {_text(settings)}")
        raise
    if isinstance(value, (float, np.floating)) and value == lowest:
        return float(value)
    try:
        return checks.number(f"what {name} returns", value, -math.inf, math.inf)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}, for {_text(settings)}") from None


def _text(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={quote(choice)}" for name, choice in settings.items())


def _axes(space: object) -> dict[str, tuple[Any, ...]]:
    """Return the space with its choices checked and held."""
    if not isinstance(space, Mapping):
        raise TypeError(f"space must be a mapping of name -> choices, not {type(space).__name__}")
    if not space:
        raise ValueError("space must have at least one axis, not 0")
    for name in space:
        if not isinstance(name, str):
            raise TypeError(f"space must have names of str, not {quote(name)}")
    return {name: _choices(f"space[{quote(name)}]", choices) for name, choices in space.items()}


def _choices(name: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.ndim == 1 else value
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a sequence of choices, mildest first, not {type(value).__name__}")
    choices = tuple(value)
    if not choices:
        raise ValueError(f"{name} must have at least one choice, not 0")
    pairs = itertools.combinations(enumerate(choices), 2)
    same = next(((i, k) for (i, a), (k, b) in pairs if _equal(a, b)), None)
    if same:
        raise ValueError(
            f"{name} must have no choice twice, but {quote(choices[same[0]])} is number {same[0]} and {same[1]}"
        )
    if all(isinstance(c, numbers.Real) and not isinstance(c, bool) for c in choices):
        steps = list(itertools.pairwise(choices))
        if not (all(a < b for a, b in steps) or all(a > b for a, b in steps)):
            raise ValueError(f"{name} must increase or decrease throughout, not be {quote(choices)}")
    return choices


def _equal(a: object, b: object) -> bool:
    """Tell whether two choices are the same; arrays, which compare element by element, are told apart by identity."""
    same = a is b or a == b
    return isinstance(same, (bool, np.bool_)) and bool(same)
