"""How a training goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aln.optim import Clip, Course, Schedule, ScheduledRule, UpdateNoise

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class NoisePretraining:
    """Training on noise images with random labels before the data are seen (Cheon et al. 2024, arXiv 2405.16731).

    Nothing can be learned from such labels but to expect none of them: the loss falls to ln(classes), while under
    feedback alignment W turns towards B. The optimizer's momentum starts anew with the data.

    Attributes:
        steps: batches of standard normal images, labels uniform; 0 leaves it out.
        lr: its constant learning rate; the optimizer's own if None.
    """

    steps: int = 0
    lr: float | None = None


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How `fit` trains. `precision` is the type of the forward and backward kernels; weights stay float32.

    `batch_size` is that of all workers together.

    Every `alignment_every` epochs and after the last, the alignment of each layer is measured (`aln.alignment`) on the
    first `alignment_images` of the validation split, which training does not notice; never if 0 or None. The defaults
    cost less than 2 % of the time even where epochs are as short as the digits'.

    Every `save_steps` steps within an epoch `fit` offers its state for saving; never if None.

    Attributes:
        alignment_schedule: of the learning rate of the state's `alignment_optimizer`; `schedule` if None.
        course: which of task and alignment each step trains, and at which rates.
        scheduled_rule: the rule of all layers over time; None if it stays what the layers hold.
        clip: bounds on gradients.
        noise: on updates.
        accumulate: each worker's share of a batch goes through the model in so many equal parts, one after another,
            whose gradients are averaged: the memory of one part. Batch norms see one part at a time.
        frozen_bn: batch norms use their running statistics, and do not learn.
    """

    epochs: int
    batch_size: int
    schedule: Schedule
    seed: int = 0
    label_smoothing: float = 0.0
    precision: Precision = "float32"
    deterministic: bool = True
    alignment_every: int | None = 10
    alignment_images: int = 32
    pretraining: NoisePretraining = NoisePretraining()
    save_steps: int | None = None
    alignment_schedule: Schedule | None = None
    course: Course = field(default_factory=Course)
    scheduled_rule: ScheduledRule | None = None
    clip: Clip = field(default_factory=Clip)
    noise: UpdateNoise = field(default_factory=UpdateNoise)
    accumulate: int = 1
    frozen_bn: bool = False
