"""The steps of an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from aln.checkpoint import TrainState
from aln.data import ImageSource
from aln.devices import cut, seed_generators, wide
from aln.engine.modes import train_mode
from aln.engine.results import StepProgress
from aln.engine.settings import FitSettings
from aln.engine.step import Stepper, set_rates
from aln.optim import Turn
from aln.seeds import derived_seed
from aln.world import World

# Off the CPU, reading a loss waits for the device: look for divergence every so many steps there, every step here.
_STEPS_BETWEEN_CHECKS = 32
# Stands for an epoch in the seeds of the noise.
_PRETRAINING = 2**32 - 1


@dataclass(frozen=True)
class Training:
    """What trains: the state, its model as all workers share it (`parallel`), data, settings, and who listens.

    `on_step` hears of every step; `save` gets a state that may be saved, on every worker.
    """

    state: TrainState
    parallel: nn.Module
    source: ImageSource
    settings: FitSettings
    world: World
    on_step: Callable[[StepProgress], None] | None = None
    save: Callable[[TrainState], None] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.state.model.parameters()).device

    @cached_property
    def stepper(self) -> Stepper:
        """What takes the steps."""
        return Stepper(self.state, self.parallel, self.settings, self.world)

    def epoch(self) -> tuple[float, float, float]:
        """Trains from the state's step to the end of its epoch.

        Returns mean loss (not finite as soon as one batch's is not), top-1 in percent, and images/s of all workers.
        """
        state, settings, world, began = self.state, self.settings, self.world, time.perf_counter()
        train_mode(state.model, settings.frozen_bn)
        steps = self.source.steps_per_epoch(settings.batch_size)
        for layer in self.stepper.layers:  # no checkpoint holds the turns of rules that leave steps out
            layer.steps = state.epoch * steps + state.step
        check_every = 1 if self.device.type == "cpu" else _STEPS_BETWEEN_CHECKS
        # What came before an interruption counts once, on worker 0.
        before = state.sums if world.rank == 0 else (0.0, 0.0)
        sums = torch.tensor(before, device=self.device, dtype=wide(self.device))
        earlier, own = state.images, state.images if world.rank == 0 else 0
        seed = derived_seed(settings.seed, state.epoch)
        for inputs, labels in self.source.train_batches(settings.batch_size, seed, start=state.step, share=world.share):
            turn = self.stepper.begin(steps)
            seed_generators(self.device, derived_seed(settings.seed, state.epoch, state.step, world.rank))
            logits, loss = self.stepper.gradients(inputs, labels, turn)
            state.images += len(labels) * world.workers
            own += len(labels)
            sums += torch.stack([loss * len(labels), (logits.argmax(1) == labels).sum()])
            state.step += 1
            if state.step % check_every == 0:
                cut(self.device)
                if not math.isfinite(float(world.sum(sums[0].clone()))):
                    break
            self.stepper.update()
            cut(self.device)
            rate = (state.images - earlier) / (time.perf_counter() - began)
            if self.on_step is not None:
                self.on_step(
                    StepProgress(
                        epoch=state.epoch + 1,
                        step=state.step,
                        steps=steps,
                        images=state.images,
                        images_per_second=rate,
                        sums=sums,
                        own_images=own,
                    )
                )
            if self.save and settings.save_steps and state.step % settings.save_steps == 0 and state.step < steps:
                own = state.images if world.rank == 0 else 0
                self._settle(sums)
                self.save(state)
        self._settle(sums)
        loss_sum, correct = state.sums
        rate = (state.images - earlier) / (time.perf_counter() - began)
        return loss_sum / state.images, 100 * correct / state.images, rate

    def pretrain(self) -> None:
        """Steps on noise; weights that stop being finite are for the first epoch to find."""
        state, settings, device = self.state, self.settings, self.device
        train_mode(state.model, settings.frozen_bn)
        mine = self.world.share.of(settings.batch_size)
        for step in range(settings.pretraining.steps):
            seed_generators(device, derived_seed(settings.seed, _PRETRAINING, step, self.world.rank))
            images = torch.randn(mine.stop - mine.start, *self.source.input_shape, device=device)
            labels = torch.randint(self.source.num_classes, (len(images),), device=device)
            for optimizer in state.optimizers:
                set_rates(optimizer, 1.0)
                for group in optimizer.param_groups:
                    group["lr"] = settings.pretraining.lr or group["lr"]
            self.stepper.gradients(images, labels, Turn())
            self.stepper.update(noisy=False)
            cut(device)
        for optimizer in state.optimizers:
            optimizer.state.clear()

    def _settle(self, sums: Tensor) -> None:
        """Brings what each worker has of its own together, so that worker 0's state is everybody's."""
        self.world.average_statistics(self.state.model)
        self.state.sums = tuple(self.world.sum(sums).tolist())
        if self.world.rank:
            sums.zero_()
