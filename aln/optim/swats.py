"""SWATS: from Adam to SGD (Keskar & Socher 2017, arXiv 1712.07628, algorithm 1).

Legend (one vector over all parameters, as in the paper)
    g      gradient, weight decay included            k  steps taken as Adam
    u      Adam's step for a learning rate of 1       v  momentum of SGD, of gradients that are not averaged
    γ      ⟨u, u⟩ / −⟨u, g⟩: the learning rate for which SGD's step, projected on u, is u
    Λ      running mean of γ, corrected for its start at 0

The paper takes γ of the step lr·u. Here it is in units of the learning rate, so that a schedule goes on acting after
the switch; while the learning rate stays the same, both are the same algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Beyond so many effective samples RAdam trusts the mean square (torch's bound).
_TRUSTED_SAMPLES = 5.0


class SWATS(torch.optim.Optimizer):
    """Adam until γ agrees with its running mean, then SGD with momentum at the learning rate Λ·lr.

    Each step as Adam waits for the device once, to look at γ. All state is tensors and numbers.

    Args:
        params: parameters, or groups of them with a `weight_decay` of their own.
        tolerance: the switch comes when |Λ − γ|·lr is below (the paper: ε, 1e-9), lr being the one without schedule.
        rectified: RAdam in Adam's place (arXiv 1908.03265); γ counts from where the mean square is trusted.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-9,
        weight_decay: float = 0.0,
        tolerance: float = 1e-9,
        rectified: bool = False,
    ) -> None:
        settings = {"betas": betas, "eps": eps, "tolerance": tolerance, "rectified": rectified}
        # The same in all groups: the state that belongs to no single parameter.
        shared = {"estimates": 0, "mean_estimate": 0.0, "sgd_rate": 0.0}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **settings, **shared})

    @property
    def switched(self) -> bool:
        """Whether it is SGD by now."""
        return bool(self.param_groups[0]["sgd_rate"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.state:  # fresh, or cleared to begin anew
            self._share(estimates=0, mean_estimate=0.0, sgd_rate=0.0)
        if self.switched:
            self._step_as_sgd()
        else:
            self._step_as_adam()
        return loss

    def _step_as_adam(self) -> None:
        dots: list[Tensor] = []
        counts = True
        for group in self.param_groups:
            params, grads = _trained(group)
            if not params:
                continue
            steps, trusted = self._adam_steps(group, params, grads)
            counts = counts and trusted
            dots += [torch.stack([(u * u).sum(), (u * g).sum()]) for u, g in zip(steps, grads, strict=True)]
            torch._foreach_add_(params, steps, alpha=group["lr"])
        if dots and counts:
            squared, slope = torch.stack(dots).sum(0).tolist()
            self._estimate(squared, slope)

    def _adam_steps(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]
    ) -> tuple[list[Tensor], bool]:
        """u of each parameter, and whether its mean square is trusted."""
        beta1, beta2 = group["betas"]
        states = [self.state[p] for p in params]
        for state, p in zip(states, params, strict=True):
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
        mean, square = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        torch._foreach_lerp_(mean, grads, 1 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, grads, grads, 1 - beta2)
        ages = [float(s["step"]) for s in states]
        roots = torch._foreach_sqrt(square)
        torch._foreach_add_(roots, group["eps"])
        steps, trusted = [], True
        for m, root, age in zip(mean, roots, ages, strict=True):
            scale = _rectification(age, beta2) if group["rectified"] else 1.0
            trusted = trusted and scale is not None
            unbiased = -1 / (1 - beta1**age)
            steps.append(m * unbiased if scale is None else m * (unbiased * scale * math.sqrt(1 - beta2**age)) / root)
        return steps, trusted

    def _estimate(self, squared: float, slope: float) -> None:
        """Takes note of γ, and switches to SGD if it has settled."""
        group = self.param_groups[0]
        beta2, lr = group["betas"][1], group.get("initial_lr", group["lr"])
        estimates, mean = group["estimates"] + 1, group["mean_estimate"]
        self._share(estimates=estimates)
        if not slope:
            return
        estimate = squared / -slope
        mean = beta2 * mean + (1 - beta2) * estimate
        self._share(mean_estimate=mean)
        settled = mean / (1 - beta2**estimates)
        # Never up the gradient, which the paper does not speak of.
        if estimates > 1 and settled > 0 and abs(settled - estimate) * lr < group["tolerance"]:
            self._share(sgd_rate=settled)
            for state in self.state.values():
                state.clear()

    def _step_as_sgd(self) -> None:
        for group in self.param_groups:
            params, grads = _trained(group)
            if not params:
                continue
            beta1 = group["betas"][0]
            for p in params:
                self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
            momenta = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_mul_(momenta, beta1)
            torch._foreach_add_(momenta, grads)
            torch._foreach_add_(params, momenta, alpha=-(1 - beta1) * group["sgd_rate"] * group["lr"])

    def _share(self, **values: float) -> None:
        for group in self.param_groups:
            group.update(values)


def _trained(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """The group's parameters that have a gradient, and these gradients with weight decay."""
    params = [p for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in params]
    return params, list(torch._foreach_add(grads, params, alpha=group["weight_decay"])) if params else []


def _rectification(step: float, beta2: float) -> float | None:
    """RAdam's factor on Adam's step; None while the mean square is not trusted (arXiv 1908.03265, algorithm 2)."""
    most = 2 / (1 - beta2) - 1
    samples = most - 2 * step * beta2**step / (1 - beta2**step)
    if samples <= _TRUSTED_SAMPLES:
        return None
    return math.sqrt((samples - 4) * (samples - 2) * most / ((most - 4) * (most - 2) * samples))
