"""What a person sees while a model trains: a bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import time
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from aln.engine import EpochResult

# The loss is read no more often than that: off the CPU, reading it waits for the device.
_REFRESH_SECONDS = 0.25


class Step(Protocol):
    """How far the running epoch is: `aln.engine.StepProgress`, or the same numbers from another process."""

    @property
    def epoch(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def images_per_second(self) -> float: ...
    @property
    def train_loss(self) -> float: ...
    @property
    def train_top1(self) -> float: ...


class TrainingProgress:
    """Shows a training of so many epochs, `done` of which lie behind it; use as a context manager.

    The bar holds the epoch, the share of the training that is done, loss and top-1 of the running epoch so far, top-1
    of the last validation, images/s, and the time that has passed and is left.
    """

    def __init__(self, console: Console, epochs: int, done: int = 0) -> None:
        self._console, self._epochs = console, epochs
        self._validation, self._drawn = "", 0.0
        columns = (
            TextColumn("epoch {task.fields[epoch]}/{task.total:.0f}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=epochs, completed=done, epoch=min(done + 1, epochs))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def step(self, step: Step) -> None:
        """A step is done."""
        if not self._console.is_terminal or time.monotonic() - self._drawn < _REFRESH_SECONDS:
            return
        self._drawn = time.monotonic()
        self._bar.update(
            self._task,
            completed=step.epoch - 1 + step.step / step.steps,
            epoch=step.epoch,
            description=self._line(step),
        )

    def epoch(self, result: EpochResult) -> None:
        """An epoch is done."""
        validation = "diverged" if result.validation is None else f"val top-1 {result.validation.top1:.2f} %"
        self._validation = f"  {validation}"
        self._bar.update(self._task, completed=result.epoch, description=self._line(result))
        if not self._console.is_terminal:
            line = f"loss {result.train_loss:.4f}  {validation}  {result.images_per_second:.0f} images/s"
            self._console.print(f"epoch {result.epoch:>3}/{self._epochs}  {line}", highlight=False)

    def _line(self, of: Step | EpochResult) -> str:
        so_far = f"loss {of.train_loss:.4f}  top-1 {of.train_top1:.2f} %"
        return f"{so_far}{self._validation}  {of.images_per_second:.0f} images/s"
