"""The default floating-point mode: to nearest, with subnormals, whatever the calling thread is set to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from . import _core

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT = 0  # what `_core.float_mode` says of a thread that nobody has changed


def default_floats(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap `function` so that numpy and Python compute in the default mode, and give the caller's mode back.

    Libraries built with -ffast-math leave threads that flush subnormals to zero, others round up or down. Kernels set
    the mode themselves (cpp/parallel.h); this is for the reference, and for functions whose own numpy rounds, divides
    or compares. Threads that `function` starts inherit its mode. It costs 0.2 us a call.
    """

    @functools.wraps(function)
    def in_default_mode(*args: P.args, **kwargs: P.kwargs) -> R:
        mode = _core.float_mode()
        if mode == DEFAULT:
            return function(*args, **kwargs)
        _core.use_float_mode(DEFAULT)
        try:
            return function(*args, **kwargs)
        finally:
            _core.use_float_mode(mode)

    return in_default_mode
