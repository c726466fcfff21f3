"""Noisy updates: the robustness study of arXiv 2003.01513 (section 5)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aln.devices import own_generator
from aln.errors import AlnError
from aln.optim.checks import at_least_zero
from aln.optim.groups import Part, backward_weights
from aln.signals import Distribution


@dataclass(frozen=True, kw_only=True)
class UpdateNoise:
    """After each update, noise times the learning rate is added to the weights that were updated.

    Attributes:
        variance: of the noise; 0 leaves it out.
        distribution: `normal`, or `uniform` on ±√(3 variance).
        part: on all weights that are trained, the `forward` ones or the `backward` ones alone.
    """

    variance: float = 0.0
    distribution: Distribution = "normal"
    part: Part = "all"

    def __post_init__(self) -> None:
        at_least_zero(variance=self.variance)
        if self.distribution not in ("normal", "uniform"):
            raise AlnError(f"distribution = {self.distribution!r}: expected normal or uniform")
        if self.part not in ("all", "forward", "backward"):
            raise AlnError(f"part = {self.part!r}: expected all, forward or backward")

    @torch.no_grad()
    def disturb(self, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], seed: int) -> None:
        """Adds the noise of one step, a function of the seed: the same on every worker that is given the same.

        A weight without a gradient was not updated and is left alone.
        """
        if not self.variance:
            return
        backward = set(backward_weights(model))
        generators: dict[torch.device, torch.Generator | None] = {}
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    chosen = self.part == "all" or (self.part == "backward") == (weight in backward)
                    if weight.grad is None or not chosen:
                        continue
                    if weight.device not in generators:
                        generators[weight.device] = own_generator(weight.device, seed)
                    weight.add_(self._draw(weight, generators[weight.device]), alpha=group["lr"])

    def _draw(self, weight: Tensor, generator: torch.Generator | None) -> Tensor:
        """Noise in the shape of a weight, and the same whatever its memory layout."""
        noise = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
        if self.distribution == "normal":
            return noise.normal_(std=math.sqrt(self.variance), generator=generator)
        bound = math.sqrt(3 * self.variance)
        return noise.uniform_(-bound, bound, generator=generator)
