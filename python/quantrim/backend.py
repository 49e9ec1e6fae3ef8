"""The choice of who computes: a compiled instruction set, or the numpy reference; and with how many threads."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from types import ModuleType, TracebackType
from typing import Any, TypeVar

from . import _core, checks, reference

C = TypeVar("C", bound="_Choice")

active: ModuleType  # whose functions the public ones call, in the calling context
MAX_THREADS = 1024


class _Refused:
    """A stand-in for a module where the environment asks for what there is not: a ValueError at every use.

    Not already at import, where the command line could say it only with a traceback.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> Any:
        raise ValueError(self._why)


def isas() -> list[str]:
    """List the names that `use_isa` accepts on this machine, best first; the last is the numpy reference.

    >>> isas()[-1]
    'reference'
    """
    return [*_core.isas(), "reference"]


def current_isa() -> str:
    """Return the name of the instruction set in use.

    >>> current_isa() in isas()
    True
    """
    module = _core.active(None)
    return "reference" if module is reference else module.current_isa()


def current_threads() -> int:
    """Return how many threads one call may use.

    >>> current_threads() >= 1
    True
    """
    current_isa()  # a ValueError where the environment asked for what there is not
    return _choice.get()[2]


class _Choice:
    """Choose by a plain call, or for a block that gives back what it changed."""

    def __init__(self, isa: str | None, threads: int | None) -> None:
        self._chosen = isa, threads
        self._before = isa and current_isa(), threads and current_threads()
        _choose(isa, threads)

    def __enter__(self: C) -> C:
        _choose(*self._chosen)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _choose(*self._before)


class use_isa(_Choice):
    """Compute with this instruction set from now on or, as a context manager, within a block. Results stay the same.

    name: one of `isas()`; another is a ValueError that lists them. The choice is the calling context's alone, as that
    of numpy's errstate: of a thread or, in asyncio, of a task. New threads begin with QUANTRIM_ISA, or the best.

    >>> with use_isa("reference"):
    ...     current_isa()
    'reference'
    """

    def __init__(self, name: str) -> None:
        super().__init__(_known(name, "name"), None)


class use_threads(_Choice):
    """Let each call use up to `n` threads from now on or, as a context manager, within a block.

    n: 1..1024. Results stay the same. The choice is the calling context's alone, as that of `use_isa`. New threads
    begin with QUANTRIM_THREADS, or as many as there are processors.

    >>> with use_threads(1):
    ...     current_threads()
    1
    """

    def __init__(self, n: int) -> None:
        super().__init__(None, checks.integer("n", n, 1, MAX_THREADS))


def kernels_of(w: checks.Array) -> ModuleType:
    """Return the module that computes with these weights: of float64, the reference on every instruction set."""
    module: ModuleType = _core.active(None)
    return reference if w.dtype == checks.FLOAT64 and isinstance(module, ModuleType) else module


def as_here(threads: int) -> Callable[[], None]:
    """Return what another thread calls to compute as this one from then on, with so many threads of its own."""
    return partial(_choose, current_isa(), threads)


def _choose(isa: str | None, threads: int | None) -> None:
    _choice.set(_choice_of(isa or current_isa(), threads or current_threads()))


def _choice_of(isa: str, threads: int) -> _core.Choice:
    is_reference = isa == "reference"
    return _core.choice_of(reference if is_reference else _core, "" if is_reference else isa, threads)


def _first_choice() -> _core.Choice:
    """Make the choice that the environment asks for."""
    try:
        threads = _default_threads()
        return _choice_of(_known(os.environ.get("QUANTRIM_ISA") or isas()[0], "QUANTRIM_ISA"), threads)
    except ValueError as error:
        return _core.choice_of(_Refused(str(error)), "", 1)


def _known(name: str, source: str) -> str:
    if name not in isas():
        raise ValueError(f"{source} must be an instruction set of this machine, one of {isas()}, not {name!r}")
    return name


def _default_threads() -> int:
    """Read QUANTRIM_THREADS, else OMP_NUM_THREADS within the processors this process may run on, else count those."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wish = os.environ.get("QUANTRIM_THREADS")
    if wish:
        if not wish.isdecimal():
            raise ValueError(f"QUANTRIM_THREADS must be an integer of 1..{MAX_THREADS}, not {wish!r}")
        return checks.integer("QUANTRIM_THREADS", int(wish), 1, MAX_THREADS)
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdecimal() and int(first) > 0:
        return min(int(first), available, MAX_THREADS)
    if first:
        warnings.warn(f"OMP_NUM_THREADS must be a positive integer, not {first!r}; ignored", stacklevel=2)
    return min(available, MAX_THREADS)


if len(isas()) == 1:
    raise ImportError("quantrim needs at least SSE4.2 and POPCNT (x86-64-v2) or ARMv8 NEON; this processor has neither")


class _Backend(ModuleType):
    active = property(_core.active)  # a function in C, as it is asked for at every call


sys.modules[__name__].__class__ = _Backend
_choice = ContextVar("quantrim.choice", default=_first_choice())  # noqa: B039 (a tuple)
_core.choose_by(_choice)
