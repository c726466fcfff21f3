"""One step of a training: what it trains, its gradients, and the updates."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aln.checkpoint import TrainState
from aln.engine.modes import autocast
from aln.engine.settings import FitSettings
from aln.errors import DataError
from aln.layers import AlignedLayer, aligned_layers
from aln.optim import Turn, backward_weights
from aln.seeds import derived_seed
from aln.world import World

# Marks the seeds of the noise on updates.
_NOISE = 2**32 - 2


@dataclass(frozen=True)
class Stepper:
    """Takes the steps of a training, on the model as all workers share it (`parallel`)."""

    state: TrainState
    parallel: nn.Module
    settings: FitSettings
    world: World

    @cached_property
    def layers(self) -> list[AlignedLayer]:
        """The layers with a rule."""
        return list(aligned_layers(self.state.model).values())

    def begin(self, steps: int) -> Turn:
        """Makes ready for the state's next step, of so many in an epoch: rates, coefficients, and what is trained."""
        state, settings = self.state, self.settings
        epoch, epochs = state.epoch + state.step / steps, settings.epochs
        step = state.epoch * steps + state.step
        turn = settings.course.turn(epoch, epochs, step, settings.schedule, settings.alignment_schedule)
        for optimizer, factor in zip(state.optimizers, (turn.lr_factor, turn.alignment_lr_factor), strict=False):
            set_rates(optimizer, factor, turn.loss_rate)
        for layer in self.layers:
            if (layer.trains_task, layer.alignment_rate) != (turn.task, turn.alignment_rate):
                layer.trains_task, layer.alignment_rate = turn.task, turn.alignment_rate
        if settings.scheduled_rule is not None:
            rule = settings.scheduled_rule.at(epoch, epochs)
            for layer in self.layers:
                layer.rule = rule
        return turn

    def gradients(self, inputs: Tensor, labels: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """Logits and mean loss of this worker's share of a batch; the whole batch's gradients are there afterwards.

        What the turn does not train has none. Raises `DataError` if the share does not fall into `accumulate` parts.
        """
        parts = self.settings.accumulate
        for optimizer in self.state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if parts == 1:
            logits, loss = self._backward(inputs, labels, turn)
        else:
            logits, loss = self._accumulated(inputs, labels, turn, parts)
        self._withhold(turn)
        return logits, loss

    def update(self, noisy: bool = True) -> None:
        """Moves every weight that has a gradient, with the settings' noise if `noisy`."""
        state, settings = self.state, self.settings
        for optimizer in state.optimizers:
            settings.clip.cut(optimizer)
            optimizer.step()
        if noisy and settings.noise.variance:
            seed = derived_seed(settings.seed, state.epoch, state.step, _NOISE, 0)
            settings.noise.disturb(state.model, state.optimizers, seed)

    def _accumulated(self, inputs: Tensor, labels: Tensor, turn: Turn, parts: int) -> tuple[Tensor, Tensor]:
        """Logits and loss of a batch that goes through in equal parts, whose gradients are averaged."""
        if len(labels) % parts:
            raise DataError(f"{len(labels)} images do not fall into {parts} equal parts (accumulate)")
        results, turns = [], [layer.steps for layer in self.layers]
        for part, (some_inputs, some_labels) in enumerate(zip(inputs.chunk(parts), labels.chunk(parts), strict=True)):
            for layer, number in zip(self.layers, turns, strict=True):
                layer.steps = number  # all parts belong to one step
            waits = isinstance(self.parallel, DistributedDataParallel) and part < parts - 1
            with self.parallel.no_sync() if waits else nullcontext():  # type: ignore[operator]
                results.append(self._backward(some_inputs, some_labels, turn))
        found = [p.grad for p in self.state.model.parameters() if p.grad is not None]
        if found:
            torch._foreach_div_(found, parts)
        logits, losses = zip(*results, strict=True)
        return torch.cat(logits), torch.stack(losses).mean()

    def _backward(self, inputs: Tensor, labels: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """Logits and loss; gradients are added to those that are there."""
        with autocast(inputs.device, self.settings.precision):
            logits = self.parallel(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.settings.label_smoothing)
        if not turn.task:  # layers teach B in the backward pass, which carries no error then
            logits.backward(torch.zeros_like(logits))
        else:
            (loss if turn.loss_rate == 1 else loss * turn.loss_rate).backward()
        return logits.detach(), loss.detach()

    def _withhold(self, turn: Turn) -> None:
        """Takes away the zeros that stand for no gradient, which momentum would take for news.

        They come from `World.parallel`, and in a turn without the task from all that is no backward weight.
        """
        if turn.task and self.world.workers == 1:
            return
        learns = [layer for layer in self.layers if layer.aligned]
        kept = {layer.backward_weight for layer in learns}
        if not turn.task:
            kept |= {layer.weight for layer in learns if layer.rule.moves_forward_weight}  # type: ignore[misc]
        for parameter in backward_weights(self.state.model) if turn.task else self.state.model.parameters():
            if parameter not in kept:
                parameter.grad = None


def set_rates(optimizer: torch.optim.Optimizer, factor: float, loss_rate: float = 1.0) -> None:
    """Multiplies the optimizer's own learning rate by a factor, and its weight decay by the rate of the loss."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        group["weight_decay"] = group.setdefault("initial_weight_decay", group["weight_decay"]) * loss_rate
