"""How a sweep ends when somebody stops it: Ctrl-C, or the SIGTERM of `timeout`, SLURM and systemd."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self

import psutil
from rich.console import Console

from aln.errors import AlnError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds within which signals are one: `timeout` sends the same twice, to the process and to its group.
_SAME = 0.2
# Seconds after which Ray is taken to be gone. Tune gives a trial's process five to end.
_PATIENCE = 10.0
# Seconds that the last words may take then.
_LAST_WORDS = 5.0
_SHOW_CURSOR = b"\x1b[?25h"


class Interruption:
    """Hears SIGINT and SIGTERM; use as a context manager, in the main thread.

    The first signal is acknowledged at once. It stops what `searching` lends, and raises `KeyboardInterrupt` elsewhere.
    The next one ends the process and those that it started, at once. Nothing is lost by that: what the study's file
    holds has happened, and what MLflow has not heard waits in its spool.

    A signal to a whole process group ends Ray, too, and whoever asks Ray then waits for a minute, in code that no
    signal interrupts. So a thread hears the signals, and ends the process if the search has not stopped after ten
    seconds. Only after Ctrl-C in a search there is time for what follows: tests and plots.

    Args:
        resuming: the command that goes on with the sweep.

    Attributes:
        hurried: whether it was SIGTERM, so that there is time for what must be alone.
    """

    def __init__(self, console: Console, resuming: str) -> None:
        self.hurried = False
        self._console, self._resuming = console, resuming
        self._heard: float | None = None  # when the first signal came
        self._deadline: float | None = None
        self._raised = False
        self._stop: Callable[[], None] | None = None
        self._last: Callable[[], Any] = lambda: None

    def __enter__(self) -> Self:
        # Python writes the numbers of signals there, whatever the main thread is at; zero is ours.
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before: dict[int, Any] = {which: signal.getsignal(which) for which in _SIGNALS}
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self.listen()
        self._thread = threading.Thread(target=self._watch, name="interruption", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)

    def listen(self) -> None:
        """Puts its handlers in the place of others: Ray brings its own, and ends in disorder by them."""
        for which in _SIGNALS:
            signal.signal(which, self._in_main_thread)

    @contextmanager
    def searching(self, stop: Callable[[], None], last: Callable[[], Any]) -> Iterator[None]:
        """While trials run: a signal calls `stop`, after which they have to end soon.

        Args:
            stop: called from another thread, as `last` is.
            last: called if they do not, before the process ends.
        """
        self._stop, self._last = stop, last
        if self._heard is not None:
            stop()
        try:
            yield
        except AlnError:
            raise
        except Exception:
            if self._heard is None:  # otherwise Ray may have ended before us
                raise
        finally:
            self._stop, self._last = None, lambda: None
            if not self.hurried:
                self._deadline = None
                os.write(self._writer, b"\0")

    def _in_main_thread(self, number: int, frame: FrameType | None) -> None:
        if self._stop is None and not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def _watch(self) -> None:
        """Hears of signals, and ends the process where what they ask for does not come to pass."""
        while True:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            if not select.select([self._reader], [], [], left)[0]:
                self._speak_last()
                self._end()
            numbers = os.read(self._reader, 64)
            if not numbers:
                return
            for number in numbers:
                if number in _SIGNALS:
                    self._hear(number)

    def _hear(self, number: int) -> None:
        now = time.monotonic()
        if self._heard is not None:
            if now - self._heard > _SAME:
                self._end()
            return
        self._heard, self.hurried, self._deadline = now, number == signal.SIGTERM, now + _PATIENCE
        saved = ""
        if self._stop is not None:
            self._stop()
            saved = f": running trials are saved; {self._resuming} continues"
        line = f"stopping{saved}; Ctrl-C again ends at once"
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _speak_last(self) -> None:
        words = threading.Thread(target=self._last, daemon=True)
        words.start()
        words.join(_LAST_WORDS)

    def _end(self) -> None:
        """Ends this process and those that it started: of Ray's some would wait for the others."""
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        cursor = _SHOW_CURSOR if self._console.is_terminal else b""  # a table that lives on the terminal hides it
        with suppress(OSError):  # nobody may listen any more
            os.write(1, cursor + f"ended at once; {self._resuming} continues\n".encode())
        os._exit(130)
