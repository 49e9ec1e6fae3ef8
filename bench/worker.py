"""A process for one framework: its thread pool spins in nobody else's way, and its faults stop nobody else.

The parent sends ("prepare", task, rows, cols, offset, threads), then ("turn", number) as often as it likes,
and at the end ("stop",). Each message is answered by a value or by a Failure.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from contestant import Contestant
from tasks import BY_NAME, Data, Task, damaged
from timing import turn


@dataclass(frozen=True)
class Failure:
    reason: str


def refusal(task: Task, data: Data, contestant: Contestant) -> str:
    """Say why this contestant must not be timed; empty where it does the task's work."""
    contestant.call()
    answer = contestant.answer(data.sampled)
    if not task.check(data, answer):
        return "computes something else"
    if task.check(data, damaged(answer)):
        raise RuntimeError(f"the check of {task.name!r} accepts a damaged answer")
    return ""


class Framework:
    """The module peers_<name>.py, and the contestants that are ready."""

    def __init__(self, name: str) -> None:
        self._module = importlib.import_module(f"peers_{name}")
        self._data: Data | None = None
        self._ready: list[Contestant] = []

    def versions(self) -> dict[str, str]:
        found: dict[str, str] = self._module.versions()
        return found

    def prepare(self, task: str, rows: int, cols: int, offset: int, threads: int) -> list[tuple[str, str]]:
        """List (name, why it is refused) of each contestant, in order; the others are ready for turns."""
        self._ready = []
        gc.collect()
        if self._data != Data(rows, cols, offset):  # its arrays are made once
            self._data = Data(rows, cols, offset)
        assert self._data is not None
        found: list[Contestant] = self._module.contestants(task, self._data, threads)
        results = [(c.name, refusal(BY_NAME[task], self._data, c)) for c in found]
        self._ready = [c for c, (_, why) in zip(found, results, strict=True) if not why]
        return results

    def turn(self, number: int) -> float:
        """Measure median seconds of a call of the contestant that is ready under this number."""
        return turn(self._ready[number].call)


def serve(connection: Connection, name: str) -> None:
    """Answer messages until "stop"."""
    framework: Framework | None = None
    while (message := connection.recv())[0] != "stop":
        try:
            framework = framework or Framework(name)
            connection.send(getattr(framework, message[0])(*message[1:]))
        except ImportError as error:
            connection.send(Failure(f"not installed: {error}"))
        except Exception:
            connection.send(Failure(traceback.format_exc()))


class Worker:
    """The parent's end."""

    def __init__(self, name: str, most_threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(most_threads)  # read once, when a framework is loaded
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, name), daemon=True)
        self._process.start()
        other.close()

    def ask(self, *message: Any) -> Any:
        """Return the answer to a message; a process that died is a Failure."""
        try:
            self._connection.send(message)
            return self._connection.recv()
        except (EOFError, OSError) as error:
            return Failure(f"process ended: {error!r}")

    def stop(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._connection.send(("stop",))
            self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()
