"""Gradient clipping."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from aln.errors import AlnError
from aln.optim.checks import above_zero


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Bounds on the gradient that an optimizer sees, weight decay included (it is a part of the loss, as in the
    original).

    Attributes:
        norm: the gradient of all weights of one optimizer together is scaled down to this ℓ2 norm; None: never.
        value: each entry is cut to [−value, value]; None: never.
    """

    norm: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        above_zero(norm=self.norm, value=self.value)
        if self.norm is not None and self.value is not None:
            raise AlnError(f"norm = {self.norm}, value = {self.value}: expected one of them")

    @torch.no_grad()
    def cut(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips the gradients of the optimizer's weights, into which weight decay moves for this step."""
        if self.norm is None and self.value is None:
            return
        moved = []
        for group in optimizer.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights and group["weight_decay"]:
                torch._foreach_add_([p.grad for p in weights], weights, alpha=group["weight_decay"])
            group["weight_decay"] = 0.0
            moved += weights
        if self.norm is not None:
            nn.utils.clip_grad_norm_(moved, self.norm)
        elif self.value is not None:
            nn.utils.clip_grad_value_(moved, self.value)
