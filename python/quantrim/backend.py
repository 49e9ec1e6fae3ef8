"""Who computes: one of the compiled instruction sets, or the numpy reference; and with how many threads."""

from __future__ import annotations

import os
import warnings
from types import ModuleType, TracebackType
from typing import Any, cast

from . import _core, checks, reference

active: ModuleType = reference  # the module whose functions the public ones call
MAX_THREADS = 1024


class _Refused:
    """In the place of `active` where the environment asks for what there is not: a ValueError at every use.

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
    return "reference" if active is reference else active.current_isa()


def current_threads() -> int:
    """Threads that one call may use.

    >>> current_threads() >= 1
    True
    """
    return _core.current_threads() if active is reference else active.current_threads()


class use_isa:
    """Compute with this instruction set from now on, or within a `with` block. Results do not depend on it.

    name: one of `isas()`; another is a ValueError that lists them. The choice holds for the whole process.

    >>> with use_isa("reference"):
    ...     current_isa()
    'reference'
    """

    def __init__(self, name: str) -> None:
        self._before = current_isa()
        _set_isa(name)

    def __enter__(self) -> use_isa:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _set_isa(self._before)


class use_threads:
    """Let each call use up to `n` threads from now on, or within a `with` block. Results do not depend on it.

    n: 1..1024. The choice holds for the whole process.

    >>> with use_threads(1):
    ...     current_threads()
    1
    """

    def __init__(self, n: int) -> None:
        count = checks.integer("n", n, 1, MAX_THREADS)
        self._before = current_threads()
        _core.use_threads(count)

    def __enter__(self) -> use_threads:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _core.use_threads(self._before)


def _set_isa(name: str, source: str = "name") -> None:
    global active
    if name not in isas():
        raise ValueError(f"{source} must be an instruction set of this machine, one of {isas()}, not {name!r}")
    if name == "reference":
        active = reference
    else:
        _core.use_isa(name)
        active = _core


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
try:
    _core.use_threads(_default_threads())
    _set_isa(os.environ.get("QUANTRIM_ISA") or isas()[0], "QUANTRIM_ISA")
except ValueError as error:
    active = cast(ModuleType, _Refused(str(error)))
