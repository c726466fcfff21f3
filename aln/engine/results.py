"""What a training tells whoever listens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from aln.alignment import LayerAlignment, flat_metrics


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy over every example of a split once: top-1 and top-5 in percent, mean cross-entropy in nats."""

    top1: float
    top5: float
    loss: float
    examples: int


@dataclass(frozen=True, kw_only=True)
class StepProgress:
    """How far the running epoch is. Reading loss and accuracy waits for the device.

    Attributes:
        epoch: the running epoch, from 1.
        step, steps: steps done in it, and steps it has.
        images: images seen in it by all workers.
        images_per_second: of all workers, since the epoch began or went on.
        sums: this worker's sum of losses and number of correct answers so far, [2].
        own_images: images behind `sums`.
    """

    epoch: int
    step: int
    steps: int
    images: int
    images_per_second: float
    sums: Tensor
    own_images: int

    @property
    def train_loss(self) -> float:
        """Mean loss of the epoch so far on this worker's share, nats."""
        return float(self.sums[0]) / self.own_images

    @property
    def train_top1(self) -> float:
        """Accuracy of the epoch so far on this worker's share, percent."""
        return 100 * float(self.sums[1]) / self.own_images


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What one epoch gave. Accuracies in percent, losses in nats, angles in degrees by layer name.

    `alignment` is empty in epochs that do not measure it. `alignment_lr` is there if alignment has an optimizer of its
    own; `coefficients` are those that change over time. They and `lr` are those of the last step.

    A diverged epoch ends the training: its `validation` is None and `train_loss` is the last loss seen.
    """

    epoch: int
    train_loss: float
    train_top1: float
    validation: Evaluation | None
    lr: float
    images_per_second: float
    seconds: float
    skipped: int = 0
    angles: dict[str, float] = field(default_factory=dict)
    alignment: dict[str, LayerAlignment] = field(default_factory=dict)
    alignment_lr: float | None = None
    coefficients: dict[str, float] = field(default_factory=dict)

    @property
    def diverged(self) -> bool:
        """Whether a loss or a weight stopped being finite."""
        return self.validation is None

    def metrics(self) -> dict[str, float]:
        """All finite numbers under flat names (`val_top1`, `gradient_angle/groups.0.0.convs.1`), for trackers.

        A diverged epoch reports the worst accuracy there is, so that a search can rank it.
        """
        numbers = {
            # First what runs are compared by: MLflow's comparison begins with the metric that it was told first.
            "val_top1": self.validation.top1 if self.validation else 0.0,
            "val_top5": self.validation.top5 if self.validation else 0.0,
            "val_loss": self.validation.loss if self.validation else math.nan,
            "train_loss": self.train_loss,
            "train_top1": self.train_top1,
            "lr": self.lr,
            "images_per_second": self.images_per_second,
            "epoch_seconds": self.seconds,
        }
        numbers |= {} if self.alignment_lr is None else {"alignment_lr": self.alignment_lr}
        numbers |= {f"coefficient/{name}": value for name, value in self.coefficients.items()}
        if self.skipped:
            numbers["skipped_images"] = self.skipped
        numbers |= flat_metrics(self.alignment)
        numbers |= {f"angle/{name}": degrees for name, degrees in self.angles.items()}
        return {name: value for name, value in numbers.items() if math.isfinite(value)}
