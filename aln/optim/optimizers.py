"""Optimizers by name: torch's with their settings checked, and SWATS.

Weight decay is that of a loss: λ times the weight is added to the gradient (λ/2 ‖·‖², as in the code of arXiv
2003.01513), also under optimizers that scale gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn

from aln.devices import fuses
from aln.errors import AlnError
from aln.optim.checks import above_zero, at_least_zero, below_one
from aln.optim.groups import Part, parameter_groups
from aln.optim.swats import SWATS
from aln.registry import Registry

Groups = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """How parameters are updated. Its settings are checked when it is made (`AlnError`).

    Attributes:
        lr: learning rate.
        weight_decay: λ of ½λ‖·‖², for the parameters that `parameter_groups` names.
        reference_batch: the batch size that `lr` is meant for: other batches take it in proportion (arXiv 1706.02677;
            the original: 256). None takes it as it is.
    """

    lr: float = 0.1
    weight_decay: float = 1e-4
    reference_batch: int | None = None

    def __post_init__(self) -> None:
        above_zero(lr=self.lr, reference_batch=self.reference_batch)
        at_least_zero(weight_decay=self.weight_decay)

    def scaled(self, batch_size: int) -> Self:
        """The same with the learning rate for batches of this size."""
        if self.reference_batch is None:
            return self
        return replace(self, lr=self.lr * batch_size / self.reference_batch, reference_batch=None)

    def build(self, model: nn.Module, part: Part = "all") -> torch.optim.Optimizer:
        """torch's optimizer over the model's parameters that are trained, or a part of them.

        Raises `AlnError` if there are none.
        """
        groups = parameter_groups(model, self.weight_decay, part)
        if not any(group["params"] for group in groups):
            raise AlnError(f"the model has no {'' if part == 'all' else f'{part} '}weights to train")
        return self.over(groups)

    @abstractmethod
    def over(self, groups: Groups) -> torch.optim.Optimizer:
        """torch's optimizer over groups of parameters that say their own weight decay."""


def _fuses(groups: Groups) -> bool:
    return all(fuses(weight.device) for group in groups for weight in group["params"])


OPTIMIZERS: Registry[type[Optimizer]] = Registry("optimizer", Optimizer)


@OPTIMIZERS.register("sgd")
@OPTIMIZERS.register("momentum")
@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with (Nesterov) momentum; the original calls it `momentum`."""

    momentum: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        below_one(momentum=self.momentum)

    def over(self, groups: Groups) -> torch.optim.SGD:
        nesterov = self.nesterov and self.momentum > 0
        return _FusedSGD(groups, lr=self.lr, momentum=self.momentum, nesterov=nesterov, fused=_fuses(groups))


class _FusedSGD(torch.optim.SGD):
    """torch's fused kernel: one pass over weight, gradient and momentum, where the default makes four.

    It wants momentum of all weights of a group or of none. Weights whose first gradient comes later than others' get
    a momentum of zero, which is what none stands for.
    """

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None] if group["momentum"] else []
            late = [p for p in trained if "momentum_buffer" not in self.state[p]]
            for p in late if len(late) < len(trained) else ():
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return super().step(closure)


@OPTIMIZERS.register("gd")
@dataclass(frozen=True, kw_only=True)
class GradientDescent(Optimizer):
    """Gradient descent without momentum."""

    def over(self, groups: Groups) -> torch.optim.SGD:
        return SGD(lr=self.lr, momentum=0.0).over(groups)


@OPTIMIZERS.register("adagrad")
@dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011): steps shrink with the sum of all squared gradients so far.

    Attributes:
        lr: learning rate.
        initial_sum: what the sum of squared gradients begins with.
        eps: added to its root.
    """

    lr: float = 1e-2
    initial_sum: float = 0.0
    eps: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_zero(initial_sum=self.initial_sum)
        above_zero(eps=self.eps)

    def over(self, groups: Groups) -> torch.optim.Adagrad:
        return torch.optim.Adagrad(groups, lr=self.lr, initial_accumulator_value=self.initial_sum, eps=self.eps)


@OPTIMIZERS.register("rmsprop")
@dataclass(frozen=True, kw_only=True)
class RMSProp(Optimizer):
    """RMSProp (Hinton 2012): gradients over the root of a running mean of their squares.

    Attributes:
        lr: learning rate.
        smoothing: what the running mean keeps of itself in a step.
        momentum: of the step that results.
        centered: the running variance in place of the mean square.
        eps: added to the root.
    """

    lr: float = 1e-2
    smoothing: float = 0.99
    momentum: float = 0.0
    centered: bool = False
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        below_one(smoothing=self.smoothing, momentum=self.momentum)
        above_zero(eps=self.eps)

    def over(self, groups: Groups) -> torch.optim.RMSprop:
        return torch.optim.RMSprop(
            groups, lr=self.lr, alpha=self.smoothing, momentum=self.momentum, centered=self.centered, eps=self.eps
        )


@dataclass(frozen=True, kw_only=True)
class _Moments(Optimizer):
    """What optimizers share that keep running means of gradients and of their squares.

    Attributes:
        lr: learning rate.
        beta1: what the running mean of gradients keeps of itself in a step.
        beta2: the same for the mean of squares.
        eps: added to the root of the mean square.
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        below_one(beta1=self.beta1, beta2=self.beta2)
        above_zero(eps=self.eps)

    @property
    def betas(self) -> tuple[float, float]:
        return self.beta1, self.beta2


@OPTIMIZERS.register("adam")
@dataclass(frozen=True, kw_only=True)
class Adam(_Moments):
    """Adam (arXiv 1412.6980)."""

    def over(self, groups: Groups) -> torch.optim.Adam:
        return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=_fuses(groups))


@OPTIMIZERS.register("radam")
@dataclass(frozen=True, kw_only=True)
class RAdam(_Moments):
    """RAdam: Adam whose first steps wait until the mean square can be trusted (arXiv 1908.03265)."""

    def over(self, groups: Groups) -> torch.optim.RAdam:
        return torch.optim.RAdam(groups, lr=self.lr, betas=self.betas, eps=self.eps)


@OPTIMIZERS.register("swats")
@dataclass(frozen=True, kw_only=True)
class Swats(_Moments):
    """SWATS: Adam that switches to SGD once it knows the learning rate that SGD would need (arXiv 1712.07628).

    Attributes:
        tolerance: how near an estimate of that learning rate must be to the running mean of all.
    """

    eps: float = 1e-9
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(tolerance=self.tolerance)

    def over(self, groups: Groups) -> SWATS:
        return SWATS(groups, lr=self.lr, betas=self.betas, eps=self.eps, tolerance=self.tolerance)


@OPTIMIZERS.register("swrats")
@dataclass(frozen=True, kw_only=True)
class Swrats(Swats):
    """SWRATS: SWATS that begins as RAdam in place of Adam."""

    def over(self, groups: Groups) -> SWATS:
        return SWATS(groups, lr=self.lr, betas=self.betas, eps=self.eps, tolerance=self.tolerance, rectified=True)
