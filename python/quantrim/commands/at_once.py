"""A signal that comes while nothing has begun ends the program at once.

An exception would have to find its way out of the import of a module, and not every one lets it: what is raised
in a callback of Python's own, or in the midst of a compiled module, is printed or lost. Nothing is imported here that
takes time, so that the program is ready for Ctrl-C as early as it can be.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # as in typing, which takes a while to load
if TYPE_CHECKING:
    from types import FrameType, TracebackType

_loading = 0  # blocks of `loading` that are open


class loading:
    """Within this block only modules are loaded: `in_time` says that nothing would have to be undone."""

    def __enter__(self) -> None:
        global _loading
        _loading += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _loading
        _loading -= 1


def in_time() -> bool:
    """Tell whether the program does nothing yet but load its modules."""
    return _loading > 0


def stop(signum: int, frame: FrameType | None = None) -> None:
    """Say which signal it was and end, as `outcome` does later."""
    try:
        os.write(2, f"quantrim: stopped: by {signal.Signals(signum).name}\n".encode())
    finally:
        os._exit(128 + signum)


def watch() -> None:
    """Answer Ctrl-C so from now on, unless the caller of the program ignores it."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, stop)
