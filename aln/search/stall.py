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
from pathlib import Path
from typing import Any, Self, TextIO

_BEFORE_FIRST_STEP = 10.0  # as many times the patience of later


class StallWatch:
    """Watches a training from a thread; use as a context manager around it.

    If no step is made for `seconds` (ten times that before the first, when modules are imported, data read and kernels
    compiled), `tell` hears the stack of every thread, and the process ends: nothing else stops a thread. Where even
    this thread gets no turn any more (a call that holds the interpreter's lock), the process ends after twice the time
    and leaves the stacks in `note`, for `last_words`.

    Args:
        seconds: None never ends anything.
    """

    def __init__(self, seconds: float | None, tell: Callable[[str], None], note: Path) -> None:
        self._seconds, self._tell, self._note = seconds, tell, note
        self._moved, self._paused, self._over = time.monotonic(), False, threading.Event()
        self._begun = False
        self._file: TextIO | None = None
        self._alarm = threading.Lock()  # or this thread would set it again just after the other has put it off

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._note.open("w", encoding="utf-8")
            self._arm()
            threading.Thread(target=self._watch, name="stall-watch", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._disarm()

    def moved(self, progress: Any = None) -> None:
        """A step was made."""
        self._moved, self._begun = time.monotonic(), True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While somebody else is waited for."""
        self._paused = True
        try:
            yield
        finally:
            self.moved()
            self._paused = False

    def _watch(self) -> None:
        assert self._seconds is not None
        pause = min(1.0, self._seconds / 4)
        while not self._over.wait(pause):
            self._arm()
            patience = self._seconds if self._begun else _BEFORE_FIRST_STEP * self._seconds
            if not self._paused and time.monotonic() - self._moved > patience:
                self._disarm()
                try:
                    self._tell(f"{_stacks()}\nno step for {patience:g} s")
                finally:  # Tune answers a last report with `SystemExit`, which would end this thread alone
                    os._exit(1)

    def _arm(self) -> None:
        """Puts off the end of a process in which no thread gets its turn."""
        assert self._seconds is not None
        with self._alarm:
            if self._file is not None:
                faulthandler.dump_traceback_later(2 * self._seconds, exit=True, file=self._file)

    def _disarm(self) -> None:
        with self._alarm:
            if self._file is not None:
                faulthandler.cancel_dump_traceback_later()
                self._file.close()
                self._file = None
                self._note.unlink(missing_ok=True)


def last_words(note: Path) -> str:
    """The stacks that an earlier process left because none of its threads got a turn; nothing if it did not."""
    stacks = note.read_text(encoding="utf-8") if note.exists() else ""
    return stacks and f"{stacks}\nno step, and no thread got a turn"


def _stacks() -> str:
    """The stack of every thread, the main one and the training's among them."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    ]
    return "\n".join(parts)


def stall_note(folder: Path, label: str) -> Path:
    """Where the last words of a training are, in the sweep's folder: known to its driver if both share a disk."""
    return folder / "trials" / label / "stalled.txt"
