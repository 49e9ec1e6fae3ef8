"""The end of a run: its exit code, its line on stderr, and what signals do.

0: done. 2: bad input (a file, an option, a comparison that has no answer). 3: the machine could not (a file
cannot be read or written, memory ran out). 128 + n: stopped by signal n, so 130 for Ctrl-C and 143 for
SIGTERM; 141 where the reader of our output went away, as a shell says of other programs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn, TextIO

from . import at_once, wording
from .terminal import drop_output, say

BAD_INPUT, FAILED_IO = 2, 3
BROKEN_PIPE = 128 + signal.SIGPIPE
INTERRUPTED = 128 + signal.SIGINT
STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop. As a KeyboardInterrupt it unwinds through everything, and temporary
    files are removed on its way."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


class NoAnswer(Exception):
    """The run is over with BAD_INPUT, and what there was to say has been said."""


def exit_code(error: BaseException) -> int:
    """Say what went wrong, on one line, and return the exit code.

    Errors that no input explains are raised again: they are ours, and their traceback is wanted.
    """
    if os.environ.get("QUANTRIM_DEBUG") and not isinstance(error, NoAnswer):
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        code = getattr(error, "exit_code", INTERRUPTED)
        say("stopped", f"by {signal.Signals(code - 128).name}")
        return code
    if isinstance(error, NoAnswer):
        return BAD_INPUT
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno == errno.EPIPE):
        drop_output(sys.stdout)
        return BROKEN_PIPE
    if isinstance(error, OSError):
        say("error", os_error_text(error))
        return FAILED_IO
    if isinstance(error, MemoryError):
        say("error", f"not enough memory{f': {error}' if str(error) else ''}")
        return FAILED_IO
    if isinstance(error, (ValueError, TypeError)):
        say("error", wording.worded(str(error)))
        return BAD_INPUT
    if hasattr(error, "format_message"):  # of typer, or of the click under its older versions
        say("error", usage_text(error))
        return BAD_INPUT
    raise error


def os_error_text(error: OSError) -> str:
    """Say what an OSError says, with its paths quoted.

    >>> os_error_text(FileNotFoundError(2, "No such file or directory", "model.safetensors"))
    "'model.safetensors': No such file or directory"
    """
    from ..files.disk.errors import PATH_LIMIT, quote

    if error.strerror is None:
        return str(error) or type(error).__name__
    paths = [path for path in (error.filename, error.filename2) if isinstance(path, (str, bytes))]
    names = " and ".join(quote(path, PATH_LIMIT) for path in paths)
    return f"{names}: {error.strerror}" if names else error.strerror


def usage_text(error: Any) -> str:
    """Say what is wrong with the words of a command line, and what may have been meant."""
    from . import synonyms

    context = getattr(error, "ctx", None)
    command = getattr(context, "command", None)
    typed, meant = getattr(error, "option_name", ""), ""
    if typed and not typed.startswith("-"):  # older versions of click have the name alone
        typed = f"--{typed}"
    text = " ".join(error.format_message().split())
    if hasattr(error, "possibilities") and command is not None:
        text, meant = f"no such option: {typed}", synonyms.option_meant(typed, command.params)
    elif found := re.match("No such command '(.*?)'", text):
        text, meant = f"no such command: {found[1]}", synonyms.command_meant(found[1], getattr(command, "commands", ()))
    path = getattr(context, "command_path", None) or "quantrim"
    return f"{text}{'; ' if meant else ''}{meant} (see {path} --help)"


def finish_output(code: int) -> int:
    """Flush what was said and return the exit code: `code`, or that of the flush where nothing else has failed: a full
    disk may be noticed only now. What cannot be written is dropped, whatever the code: the interpreter would flush it
    once more at its end, and make the exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            code = code or exit_code(error)
            drop_output(stream)
    return code


def leave(code: object) -> NoReturn:
    """End the process at once, when all is undone that was begun: Python takes 100 ms to clear its modules away."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 1)


@contextlib.contextmanager
def signals_raise() -> Iterator[list[int]]:
    """Raise Stopped within this block for SIGINT, SIGTERM and SIGHUP, once; the list given gets its number.

    Where nothing has begun yet (`at_once.loading`) they end the program.

    While the first unwinds, more of them do nothing, so that cleaning up is not interrupted. A signal that
    the caller ignores (nohup) stays ignored.
    """
    names = [name for name in STOPPING if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    before = {n: signal.getsignal(n) for n in numbers}
    received: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        if at_once.in_time():
            at_once.stop(signum)
        for n in numbers:
            signal.signal(n, signal.SIG_IGN)
        received.append(signum)
        raise Stopped(signum)

    for n, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(n, stop)
    try:
        yield received
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


@contextlib.contextmanager
def warnings_said() -> Iterator[None]:
    """Print a UserWarning within this block as `quantrim: warning: ...` rather than as a place in our code."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, UserWarning):
            say("warning", wording.worded(str(message)))
        else:
            others(message, category, filename, lineno, file, line)

    others = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
