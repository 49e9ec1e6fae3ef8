"""Who computes: one of the compiled instruction sets, or the numpy reference; and with how many threads."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

from . import _core, checks, reference
from .choices import Choice, Setting

active: ModuleType  # whose functions the public ones call: what the calling thread computes with
MAX_THREADS = 1024


class _Refused:
    """In the place of a module where the environment asks for what there is not: a ValueError at every use.

    Not already at import, where the command line could say it only with a traceback.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> Any:
        raise ValueError(self._why)


def isas() -> list[str]:
    """Names that `use_isa` accepts on this machine, best first; the last is the numpy reference.

    >>> isas()[-1]
    'reference'
    """
    return [*_core.isas(), "reference"]


def current_isa() -> str:
    """The name of the instruction set in use.

    >>> current_isa() in isas()
    True
    """
    module = _core.active(None)
    return "reference" if module is reference else module.current_isa()


def current_threads() -> int:
    """Threads that one call may use.

    >>> current_threads() >= 1
    True
    """
    module = _core.active(None)
    return _core.current_threads() if module is reference else module.current_threads()


class use_isa(Choice[str]):
    """Compute with this instruction set from now on, or within a `with` block. Results do not depend on it.

    name: one of `isas()`; another is a ValueError that lists them. A block is the calling thread's alone. Without
    `with` the choice holds until another for the whole process, but for threads within a block; within one, until it
    ends.

    >>> with use_isa("reference"):
    ...     current_isa()
    'reference'
    """

    def __init__(self, name: str) -> None:
        current_isa()  # a ValueError where the environment asked for what there is not
        super().__init__(_isa, _known(name, "name"))


class use_threads(Choice[int]):
    """Let each call use up to `n` threads from now on, or within a `with` block. Results do not depend on it.

    n: 1..1024. The choice holds for the calling thread or the process, as that of `use_isa`.

    >>> with use_threads(1):
    ...     current_threads()
    1
    """

    def __init__(self, n: int) -> None:
        count = checks.integer("n", n, 1, MAX_THREADS)
        current_threads()
        super().__init__(_threads, count)


def as_here(threads: int) -> Callable[[], None]:
    """What another thread calls to compute as this one from then on, with so many threads of its own for a call."""
    isa = current_isa()

    def adopt() -> None:
        _isa.enter(isa)
        _threads.enter(threads)

    return adopt


def _known(name: str, source: str) -> str:
    if name not in isas():
        raise ValueError(f"{source} must be an instruction set of this machine, one of {isas()}, not {name!r}")
    return name


def _use_isa(name: str) -> None:
    if name != "reference":
        _core.use_isa(name)
    _core.compute_with(reference if name == "reference" else _core)


def _use_here() -> None:
    isa, threads = _isa.here(), _threads.here()
    module = None if isa is None else reference if isa == "reference" else _core
    _core.compute_here(module, isa if isa and module is _core else "", threads or 0)


def _default_threads() -> int:
    """QUANTRIM_THREADS, else OMP_NUM_THREADS within the processors this process may run on, else all of those."""
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
try:
    _threads = Setting(_default_threads(), _core.use_threads, _use_here)
    _isa = Setting(_known(os.environ.get("QUANTRIM_ISA") or isas()[0], "QUANTRIM_ISA"), _use_isa, _use_here)
except ValueError as error:
    _core.compute_with(_Refused(str(error)))
