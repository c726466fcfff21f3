"""SWATS against numbers worked out by hand, and against the paper's algorithm written out."""

import math

import pytest
import torch
from torch import nn

from aln.optim import SWATS


def weights(*values: float) -> nn.ParameterList:
    return nn.ParameterList([torch.tensor([value], dtype=torch.float64) for value in values])


def walk(optimizer: SWATS, params: nn.ParameterList, gradients: list[list[float]]) -> list[list[float]]:
    path = []
    for step in gradients:
        for parameter, gradient in zip(params, step, strict=True):
            parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        path.append([float(parameter.detach()) for parameter in params])
    return path


def test_a_constant_gradient_switches_at_once():
    params = weights(1.0)
    optimizer = SWATS(params, lr=0.1)
    # Adam steps by lr: γ = 1/2, the same twice. Then v = 2 and 0.1·(1/2)·0.1·2 = 0.01; v = 3.8 and 0.019.
    path = walk(optimizer, params, [[2.0]] * 4)
    assert [w for (w,) in path] == pytest.approx([0.9, 0.8, 0.79, 0.771], abs=1e-8)
    assert optimizer.switched
    assert optimizer.param_groups[0]["sgd_rate"] == pytest.approx(0.5)


def reference(gradients: list[list[float]], lr: float, tolerance: float) -> tuple[list[list[float]], int | None]:
    """Algorithm 1 of arXiv 1712.07628 for two weights that start at 1, and the step of the switch."""
    (b1, b2), eps = (0.9, 0.999), 1e-9
    w, m, a, lam, rate, v = [1.0, 1.0], [0.0, 0.0], [0.0, 0.0], 0.0, 0.0, [0.0, 0.0]
    path, switch = [], None
    for k, g in enumerate(gradients, start=1):
        if switch is not None:
            v = [b1 * vi + gi for vi, gi in zip(v, g, strict=True)]
            w = [wi - (1 - b1) * rate * vi for wi, vi in zip(w, v, strict=True)]
            path.append(w)
            continue
        m = [b1 * mi + (1 - b1) * gi for mi, gi in zip(m, g, strict=True)]
        a = [b2 * ai + (1 - b2) * gi * gi for ai, gi in zip(a, g, strict=True)]
        scale = lr * math.sqrt(1 - b2**k) / (1 - b1**k)
        p = [-scale * mi / (math.sqrt(ai) + eps) for mi, ai in zip(m, a, strict=True)]
        w = [wi + pi for wi, pi in zip(w, p, strict=True)]
        path.append(w)
        slope = sum(pi * gi for pi, gi in zip(p, g, strict=True))
        if slope != 0:
            gamma = sum(pi * pi for pi in p) / -slope
            lam = b2 * lam + (1 - b2) * gamma
            if k > 1 and abs(lam / (1 - b2**k) - gamma) < tolerance:
                switch, rate = k, lam / (1 - b2**k)
    return path, switch


def test_the_papers_algorithm_written_out():
    torch.manual_seed(0)
    gradients = (torch.randn(40, 2, dtype=torch.float64) * 0.3 + torch.tensor([1.0, -2.0])).tolist()
    expected, switch = reference(gradients, lr=0.01, tolerance=1e-5)
    assert switch is not None
    assert 5 < switch < 35
    params = weights(1.0, 1.0)
    groups = [{"params": [params[0]]}, {"params": [params[1]]}]  # one vector over all groups
    optimizer = SWATS(groups, lr=0.01, tolerance=1e-5)
    path = walk(optimizer, params, gradients[: switch - 1])
    assert not optimizer.switched
    path += walk(optimizer, params, gradients[switch - 1 :])
    assert optimizer.switched
    for found, right in zip(path, expected, strict=True):
        assert found == pytest.approx(right, rel=1e-9)


def test_learning_rates_go_on_acting_after_the_switch():
    params = weights(1.0)
    optimizer = SWATS(params, lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    walk(optimizer, params, [[2.0]] * 2)
    before = float(params[0].detach())
    optimizer.param_groups[0]["lr"] = 0.02
    ((after,),) = walk(optimizer, params, [[2.0]])
    assert after - before == pytest.approx(-0.002)


def test_a_schedule_leaves_the_estimates_alone():
    """A rate that rises in warm-up changes the steps, not γ, which is in units of it."""
    params = weights(1.0)
    optimizer = SWATS(params, lr=0.1)
    optimizer.param_groups[0] |= {"initial_lr": 0.1, "lr": 0.0}
    walk(optimizer, params, [[2.0]])
    assert optimizer.param_groups[0]["mean_estimate"] == pytest.approx(0.001 * 0.5)
    optimizer.param_groups[0]["lr"] = 0.05
    walk(optimizer, params, [[2.0]])
    assert optimizer.param_groups[0]["sgd_rate"] == pytest.approx(0.5)


def test_weight_decay_is_a_part_of_the_gradient():
    params = weights(1.0)
    optimizer = SWATS(params, lr=0.1, weight_decay=0.5)
    assert walk(optimizer, params, [[0.0]])[0] == pytest.approx([0.9])
    assert optimizer.param_groups[0]["mean_estimate"] == pytest.approx(0.001 * 1 / 0.5)


def test_it_never_switches_to_climbing():
    params = weights(1.0)
    optimizer = SWATS(params, lr=0.1, tolerance=1e9)
    # The mean gradient points down while this one points up: γ < 0, and any γ would be near enough.
    walk(optimizer, params, [[2.0], [-0.1]])
    assert optimizer.param_groups[0]["mean_estimate"] < 0
    assert not optimizer.switched


def test_radam_first():
    """Five steps that wait, of which no estimate is made; then RAdam's, and the switch at the second of them."""
    params, twin = weights(1.0), weights(1.0)
    optimizer = SWATS(params, lr=0.1, eps=1e-8, rectified=True, tolerance=1e-2)
    radam = torch.optim.RAdam(twin, lr=0.1)
    for step in range(1, 8):
        for parameter in (*params, *twin):
            parameter.grad = torch.tensor([2.0], dtype=torch.float64)
        optimizer.step()
        radam.step()
        assert params[0].detach() == pytest.approx(twin[0].detach(), rel=1e-12, abs=1e-12)
        assert optimizer.param_groups[0]["estimates"] == max(0, step - 5)
    assert optimizer.switched


def test_cleared_state_is_a_fresh_start():
    params = weights(1.0)
    optimizer = SWATS(params, lr=0.1)
    walk(optimizer, params, [[2.0]] * 3)
    assert optimizer.switched
    optimizer.state.clear()
    before = float(params[0].detach())
    ((after,),) = walk(optimizer, params, [[5.0]])
    assert after - before == pytest.approx(-0.1)
    assert not optimizer.switched


def test_a_closure_is_asked_for_the_loss():
    params = weights(3.0)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = params[0].square().sum()
        value.backward()
        return value

    optimizer = SWATS(params, lr=0.1)
    assert float(optimizer.step(loss).detach()) == 9.0
    assert float(params[0].detach()) == pytest.approx(2.9)
