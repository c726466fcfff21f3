"""Which of task and alignment a step trains, and at which rates: the course of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aln.errors import AlnError
from aln.optim.checks import above_zero, at_least_zero
from aln.optim.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one step trains. What has a rate of 0 is not trained at all: no gradient, momentum or decay moves it.

    Attributes:
        loss_rate: factor on the task's loss, weight decay included.
        alignment_rate: factor on the rules' own losses.
        lr_factor: factor on the learning rate of the optimizer, or of the task's if alignment has one of its own.
        alignment_lr_factor: factor on the learning rate of alignment's own optimizer.
    """

    loss_rate: float = 1.0
    alignment_rate: float = 1.0
    lr_factor: float = 1.0
    alignment_lr_factor: float = 1.0

    @property
    def task(self) -> bool:
        """Whether the task is trained: forward weights, and backward weights that share its gradient."""
        return self.loss_rate > 0

    @property
    def alignment(self) -> bool:
        """Whether alignment is trained: backward weights, and what the rules' own losses move of the forward ones."""
        return self.alignment_rate > 0


@dataclass(frozen=True, kw_only=True)
class Course:
    """The course of a training (the code of arXiv 2003.01513 has it under the same names). A pure function of time.

    Attributes:
        delay_epochs: alignment alone is trained for so many epochs. The task's schedule begins after them; alignment's
            warm-up begins at once, and the rest of its schedule after them.
        alternate_step_freq: k > 0: of k + 1 steps the first trains alignment alone, the others the task alone, and
            schedules are stretched by k + 1 (counted from the end of the delay). 0: every step trains both.
        loss_rate: factor on the task's loss, weight decay included.
        alignment_rate: factor on the rules' own losses.
        rate_drops: both rates are multiplied by `rate_gamma` at each of these epochs (the original: 30, 60, 80).
        rate_gamma: that factor.
    """

    delay_epochs: float = 0.0
    alternate_step_freq: int = 0
    loss_rate: float = 1.0
    alignment_rate: float = 1.0
    rate_drops: tuple[float, ...] = ()
    rate_gamma: float = 0.1

    def __post_init__(self) -> None:
        at_least_zero(delay_epochs=self.delay_epochs, alternate_step_freq=self.alternate_step_freq)
        at_least_zero(loss_rate=self.loss_rate, alignment_rate=self.alignment_rate)
        above_zero(rate_gamma=self.rate_gamma)
        if self.loss_rate == self.alignment_rate == 0:
            raise AlnError("loss_rate = alignment_rate = 0: expected one of them above 0")
        if not all(math.isfinite(drop) for drop in self.rate_drops):
            raise AlnError(f"rate_drops = {self.rate_drops}: expected finite numbers")

    def turn(
        self, epoch: float, epochs: float, step: int, schedule: Schedule, alignment_schedule: Schedule | None = None
    ) -> Turn:
        """What the step trains that is number `step` of the whole training, at the fractional epoch.

        One optimizer for both follows the task's schedule wherever the task is trained, else alignment's.

        Args:
            epochs: length of the training.
            alignment_schedule: of alignment's learning rate; the same as the task's if None.
        """
        in_delay = epoch < self.delay_epochs
        alternates = self.alternate_step_freq > 0 and not in_delay
        aligning = step % (self.alternate_step_freq + 1) == 0
        drop = self.rate_gamma ** sum(epoch >= at for at in self.rate_drops)
        task = not in_delay and not (alternates and aligning)
        alignment = not alternates or aligning
        later = alignment_schedule or schedule
        alignment_factor = self.alignment_factor(later, epoch, epochs)
        return Turn(
            loss_rate=self.loss_rate * drop if task else 0.0,
            alignment_rate=self.alignment_rate * drop if alignment else 0.0,
            lr_factor=self.task_factor(schedule, epoch, epochs) if task else alignment_factor,
            alignment_lr_factor=alignment_factor,
        )

    def task_factor(self, schedule: Schedule, epoch: float, epochs: float) -> float:
        """The schedule's factor for the task: begun after the delay, stretched by k + 1."""
        return schedule.factor(*self._own_time(epoch, epochs))

    def alignment_factor(self, schedule: Schedule, epoch: float, epochs: float) -> float:
        """The schedule's factor for alignment: warmed up at once, the rest after the delay, stretched by k + 1."""
        if not self.delay_epochs:
            return self.task_factor(schedule, epoch, epochs)
        return schedule.warmup(epoch / (self.alternate_step_freq + 1)) * schedule.decay(*self._own_time(epoch, epochs))

    def _own_time(self, epoch: float, epochs: float) -> tuple[float, float]:
        """Epoch and epochs as a schedule sees them."""
        stretch = self.alternate_step_freq + 1
        return max(0.0, epoch - self.delay_epochs) / stretch, (epochs - self.delay_epochs) / stretch
