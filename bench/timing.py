"""Timing of calls when neighbours are noisy: turns of a few calls, for medians over many turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

TURN_SECONDS = 0.02  # a turn repeats short calls for this long
SLOW_SECONDS = 0.5  # calls that take longer need no warm-up
PAUSE_SECONDS = 0.03  # between turns of different processes, so that spinning thread pools have gone to sleep


def seconds(call: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def turn(call: Callable[[], object]) -> float:
    """Measure median seconds of a call, of as many as fill a turn; the first is a warm-up unless calls are slow."""
    first = seconds(call)
    if first > SLOW_SECONDS:
        return first
    taken = [seconds(call)]
    while sum(taken) < TURN_SECONDS:
        taken.append(seconds(call))
    return statistics.median(taken)
