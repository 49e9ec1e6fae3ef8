"""What is chosen for the whole process by plain calls, and for one thread by the blocks that it is in."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound="Choice")  # type: ignore[type-arg]


class Block(Generic[T]):
    """What holds within a block; a plain call in the block changes it."""

    def __init__(self, value: T) -> None:
        self.value = value


class Setting(Generic[T]):
    """A value for the process, and in each thread that of its last open block.

    use_everywhere: called with the process's value whenever that changes. use_here: called when that of the calling
    thread may have changed.
    """

    def __init__(self, first: T, use_everywhere: Callable[[T], None], use_here: Callable[[], None]) -> None:
        self._use_everywhere, self._use_here = use_everywhere, use_here
        self._thread = threading.local()
        # Plain calls, the last of which holds, by what they returned: it may yet become a block, and is then no plain
        # call. One that is gone cannot, so that those before it have had their time.
        self._plain: list[tuple[weakref.ref[object] | None, T]] = []
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)
        self._choose_everywhere(None, first)

    def _forked(self) -> None:
        self._lock = threading.Lock()  # that of the parent may have been taken

    def _blocks(self) -> list[Block[T]]:
        blocks: list[Block[T]] = self._thread.__dict__.setdefault("blocks", [])
        return blocks

    def here(self) -> T | None:
        """The value of the calling thread's last open block; None outside of blocks."""
        blocks = self._blocks()
        return blocks[-1].value if blocks else None

    def choose(self, by: object, value: T) -> tuple[Block[T], T] | None:
        """Let a value hold as by a plain call that gives `by`. Returns the block it is in, with its value before."""
        blocks = self._blocks()
        if not blocks:
            self._choose_everywhere(weakref.ref(by), value)
            return None
        block, before = blocks[-1], blocks[-1].value
        block.value = value
        self._use_here()
        return block, before

    def take_back(self, by: object, within: tuple[Block[T], T] | None) -> None:
        """Undo what `choose` did, and gave as `within`."""
        if within is None:
            self._take_back_everywhere(by)
        else:
            within[0].value = within[1]

    def _choose_everywhere(self, by: weakref.ref[object] | None, value: T) -> None:
        with self._lock:
            gone = [k for k, (other, _) in enumerate(self._plain) if other is None or other() is None]
            self._plain = [*self._plain[gone[-1] if gone else 0 :], (by, value)]
            self._use_everywhere(value)

    def _take_back_everywhere(self, by: object) -> None:
        with self._lock:
            self._plain = [(other, value) for other, value in self._plain if other is None or other() is not by]
            self._use_everywhere(self._plain[-1][1])

    def enter(self, value: T) -> Block[T]:
        """Open a block in the calling thread."""
        block = Block(value)
        self._blocks().append(block)
        self._use_here()
        return block

    def leave(self, block: Block[T]) -> None:
        """Close a block of the calling thread, in whatever order."""
        blocks = self._blocks()
        if block in blocks:  # else opened in another
            blocks.remove(block)
        self._use_here()


class Choice(Generic[T]):
    """A plain call, which becomes a block when it is entered."""

    def __init__(self, setting: Setting[T], value: T) -> None:
        self._setting, self._value = setting, value
        self._blocks: list[Block[T]] = []
        self._within = setting.choose(self, value)
        self._plain = True  # as yet

    def __enter__(self: C) -> C:
        if self._plain:
            self._plain = False
            self._setting.take_back(self, self._within)
        self._blocks.append(self._setting.enter(self._value))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._setting.leave(self._blocks.pop())
