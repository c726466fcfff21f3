"""Ends a process whose training makes no step any more, having said where it hangs."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self


class StallWatch:
    """Watches a training from a thread; use as a context manager around it.

    If no step is made for `seconds`, `tell` hears the stack of every thread, and the process ends: nothing else stops
    a thread. Where even this thread gets no turn any more (a call that holds the interpreter's lock), the process ends
    without a word after twice the time.

    Args:
        seconds: None never ends anything.
    """

    def __init__(self, seconds: float | None, tell: Callable[[str], None]) -> None:
        self._seconds, self._tell = seconds, tell
        self._moved, self._paused, self._over = time.monotonic(), False, threading.Event()

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._arm()
            threading.Thread(target=self._watch, name="stall-watch", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        if self._seconds is not None:
            faulthandler.cancel_dump_traceback_later()

    def moved(self, progress: Any = None) -> None:
        """A step was made."""
        self._moved = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While somebody else is waited for."""
        self._paused = True
        try:
            yield
        finally:
            self._moved, self._paused = time.monotonic(), False

    def _watch(self) -> None:
        assert self._seconds is not None
        pause = min(1.0, self._seconds / 4)
        while not self._over.wait(pause):
            self._arm()
            if not self._paused and time.monotonic() - self._moved > self._seconds:
                try:
                    self._tell(f"no step for {self._seconds:g} s\n\n{_stacks()}")
                finally:  # Tune answers a last report with `SystemExit`, which would end this thread alone
                    os._exit(1)

    def _arm(self) -> None:
        """Puts off the end of a process in which no thread gets its turn."""
        assert self._seconds is not None
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(2 * self._seconds, exit=True, file=sys.__stderr__)


def _stacks() -> str:
    """The stack of every thread, the main one and the training's among them."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    ]
    return "\n".join(parts)
