"""Learning rates over time, as factors on the optimizer's `lr`. Pure functions: nothing to save."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from aln.optim.checks import above_zero, at_least_zero
from aln.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """Learning rate over time, as a factor on the optimizer's `lr`: a warm-up times what `decay` says.

    Epochs are fractional: epoch 2.5 is the middle of the third.

    Attributes:
        warmup_epochs: the factor rises linearly from 0 over so many epochs.
    """

    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        at_least_zero(warmup_epochs=self.warmup_epochs)

    def factor(self, epoch: float, epochs: float) -> float:
        """Factor at the epoch of a training that lasts `epochs`."""
        return self.warmup(epoch) * self.decay(epoch, epochs)

    def warmup(self, epoch: float) -> float:
        """The warm-up's part of the factor."""
        return min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0

    @abstractmethod
    def decay(self, epoch: float, epochs: float) -> float:
        """The rest of it."""


SCHEDULES: Registry[type[Schedule]] = Registry("schedule", Schedule)


@SCHEDULES.register("constant")
@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The learning rate stays (after warm-up)."""

    def decay(self, epoch: float, epochs: float) -> float:
        return 1.0


@SCHEDULES.register("cosine")
@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine from 1 at the end of the warm-up to 0 at the end of training (arXiv 1608.03983, equation 5)."""

    def decay(self, epoch: float, epochs: float) -> float:
        span = max(epochs - self.warmup_epochs, 1e-12)
        progress = min(max((epoch - self.warmup_epochs) / span, 0.0), 1.0)
        return 0.5 * (1 + math.cos(math.pi * progress))


@SCHEDULES.register("step")
@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    """The learning rate is multiplied by `gamma` at each of the epochs `drops` (the original: 0.1 at 30, 60, 80).

    A drop at a given step s is one at epoch s / (steps of an epoch); drops need not be whole, nor in order.
    """

    drops: tuple[float, ...] = (30.0, 60.0, 80.0)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(gamma=self.gamma)

    def decay(self, epoch: float, epochs: float) -> float:
        return self.gamma ** sum(epoch >= drop for drop in self.drops)
