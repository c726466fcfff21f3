"""Training: `fit` yields one `EpochResult` at a time and knows no tracker, no cluster and no file.

Randomness is a pure function of (seed, epoch, step, worker): generators are seeded anew in every step. So the same run
twice gives bit-identical metrics on the same machine, thread count and number of workers, a run resumed in the midst of
an epoch continues bit-identically with no generator saved, and the caller's generators are left as they were.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from aln.angles import weight_angles
from aln.checkpoint import TrainState
from aln.data import ImageSource
from aln.engine.evaluation import evaluate, measure
from aln.engine.modes import train_mode
from aln.engine.randomness import reproducible
from aln.engine.results import EpochResult, StepProgress
from aln.engine.settings import FitSettings
from aln.engine.training import Training
from aln.world import ALONE, World


def fit(
    state: TrainState,
    source: ImageSource,
    settings: FitSettings,
    world: World = ALONE,
    *,
    on_step: Callable[[StepProgress], None] | None = None,
    save: Callable[[TrainState], None] | None = None,
) -> Iterator[EpochResult]:
    """Trains `state` in place from where it stands to `settings.epochs`, yielding after each epoch.

    The device is the model's. A loss or a weight that is not finite ends the run with a result whose `diverged` is
    set, without counting the epoch as done. After each epoch, and when `save` is called with it, the state is that
    of all workers; each worker runs `fit` with its own `world` and gets the same results.

    Args:
        on_step: hears of every step.
        save: gets the state every `settings.save_steps` steps within an epoch.
    """
    device = next(state.model.parameters()).device
    source = source.to(device)
    if settings.frozen_bn:
        train_mode(state.model, frozen_bn=True)  # before workers agree on what is trained
    training = Training(state, world.parallel(state.model), source, settings, world, on_step, save)
    if state.epoch == state.step == 0 and settings.pretraining.steps:
        with reproducible(device, settings.deterministic):
            training.pretrain()
    while state.epoch < settings.epochs:
        with reproducible(device, settings.deterministic):
            result = _epoch(training)
        if not result.diverged:
            state.begin_epoch(state.epoch + 1)
        yield result
        if result.diverged:
            return


def _epoch(training: Training) -> EpochResult:
    """One pass over the training split and, unless it diverged, one over the validation split."""
    began = time.perf_counter()
    state, settings, world = training.state, training.settings, training.world
    train_loss, train_top1, images_per_second = training.epoch()
    validation = None
    if math.isfinite(train_loss) and _all_finite(state.model):
        batches = training.source.batches("validation", 4 * settings.batch_size, share=world.share)
        validation = evaluate(state.model, batches, settings.precision, world)
        validation = validation if math.isfinite(validation.loss) else None
    epoch, every = state.epoch + 1, settings.alignment_every
    due = validation is not None and every and (epoch % every == 0 or epoch == settings.epochs)
    own = state.alignment_optimizer
    return EpochResult(
        epoch=epoch,
        train_loss=train_loss,
        train_top1=train_top1,
        validation=validation,
        lr=float(state.optimizer.param_groups[0]["lr"]),
        alignment_lr=None if own is None else float(own.param_groups[0]["lr"]),
        images_per_second=images_per_second,
        skipped=training.source.skipped,
        angles=weight_angles(state.model) if validation else {},
        alignment=measure(state.model, training.source, settings) if due else {},
        coefficients=_coefficients(training),
        seconds=time.perf_counter() - began,
    )


def _coefficients(training: Training) -> dict[str, float]:
    """The rule's coefficients that change over time, as they were in the last step."""
    scheduled, layers = training.settings.scheduled_rule, training.stepper.layers
    return {name: getattr(layers[0].rule, name) for name in scheduled.schedules} if scheduled and layers else {}


def _all_finite(model: nn.Module) -> bool:
    """Whether every parameter is finite, in one pass and one wait for the device."""
    norms = torch._foreach_norm([p.detach() for p in model.parameters()])
    return bool(torch.stack(norms).isfinite().all())
