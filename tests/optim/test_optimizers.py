"""Optimizers against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from aln.errors import AlnError
from aln.optim import (
    OPTIMIZERS,
    SGD,
    Adagrad,
    Adam,
    GradientDescent,
    Optimizer,
    RAdam,
    RMSProp,
    Swats,
    Swrats,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, r"lr = 0\.0: expected a number above 0"),
        ({"lr": -1.0}, r"lr = -1\.0: expected"),
        ({"lr": math.nan}, "lr = nan: expected"),
        ({"momentum": 1.0}, r"momentum = 1\.0: expected a number of at least 0 and below 1"),
        ({"momentum": -0.1}, r"momentum = -0\.1: expected"),
        ({"momentum": math.nan}, "momentum = nan: expected"),
        ({"weight_decay": -1e-4}, r"weight_decay = -0\.0001: expected a number of at least 0"),
        ({"weight_decay": math.nan}, "weight_decay = nan: expected"),
    ],
)
def test_sgd_refuses(settings, message):
    with pytest.raises(AlnError, match=message):
        SGD(**settings)


def test_two_steps_of_nesterov_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = SGD(lr=0.1, momentum=0.9, weight_decay=0.5).build(model)
    # g = 2 + 0.5·1 = 2.5, v = 2.5, w = 1 − 0.1·(2.5 + 0.9·2.5)
    # g = −1 + 0.5·0.525 = −0.7375, v = 0.9·2.5 − 0.7375 = 1.5125, w = 0.525 − 0.1·(−0.7375 + 0.9·1.5125)
    for gradient, expected in ((2.0, 0.525), (-1.0, 0.462625)):
        model.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-6)


def test_a_step_of_heavy_ball_momentum_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = SGD(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.0).build(model)
    for expected in (0.9, 0.71):
        model.weight.grad = torch.ones(1, 1)
        optimizer.step()
        assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-6)


def test_plain_gradient_descent_needs_no_nesterov():
    assert SGD(momentum=0.0).build(nn.Linear(1, 1)).defaults["nesterov"] is False
    assert SGD().build(nn.Linear(1, 1)).defaults["nesterov"] is True


def walk(optimizer: Optimizer, gradients: list[float], start: float = 1.0) -> list[float]:
    """Where one weight goes under these gradients."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, start)
    built, path = optimizer.build(model), []
    for gradient in gradients:
        model.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        built.step()
        path.append(float(model.weight.detach()))
    return path


def test_gradient_descent_by_hand():
    # 1 − 0.1·(2 + 0.5·1), then 0.75 − 0.1·(−1 + 0.5·0.75)
    assert walk(GradientDescent(lr=0.1, weight_decay=0.5), [2, -1]) == pytest.approx([0.75, 0.8125])


def test_momentum_is_the_originals_name_for_sgd():
    assert OPTIMIZERS.get("momentum") is OPTIMIZERS.get("sgd") is SGD


def test_adagrad_by_hand():
    plain = Adagrad(lr=0.1, weight_decay=0.0)
    assert walk(plain, [2, 1]) == pytest.approx([0.9, 0.9 - 0.1 / math.sqrt(5)])
    assert walk(Adagrad(lr=0.1, weight_decay=0.0, initial_sum=5.0), [2]) == pytest.approx([1 - 0.1 * 2 / 3])
    # g = 2 + 0.5·1 in sum and step alike: decay is a part of the gradient.
    assert walk(Adagrad(lr=0.1, weight_decay=0.5, initial_sum=6.25), [2]) == pytest.approx([1 - 0.25 / math.sqrt(12.5)])


def test_rmsprop_by_hand():
    settings = {"lr": 0.1, "weight_decay": 0.0, "smoothing": 0.9}
    first, second = 2 / math.sqrt(0.4), 1 / math.sqrt(0.46)
    assert walk(RMSProp(**settings), [2, 1]) == pytest.approx([1 - 0.1 * first, 1 - 0.1 * (first + second)])
    moved = [1 - 0.1 * first, 1 - 0.1 * first - 0.1 * (0.5 * first + second)]
    assert walk(RMSProp(**settings, momentum=0.5), [2, 1]) == pytest.approx(moved)
    assert walk(RMSProp(**settings, centered=True), [2]) == pytest.approx([1 - 0.1 * 2 / math.sqrt(0.4 - 0.2**2)])


def test_adam_by_hand():
    # m = 0.2, v = 0.004: 0.2/0.1 over √(0.004/0.001) is 1. Then m = 0.28, v = 0.004996.
    second = 0.28 / 0.19 / math.sqrt(0.004996 / 0.001999)
    assert walk(Adam(lr=0.1, weight_decay=0.0), [2, 1]) == pytest.approx([0.9, 0.9 - 0.1 * second])
    # The decay of a weight of 1 is scaled with its gradient, as a part of it.
    assert walk(Adam(lr=0.1, weight_decay=0.5), [0]) == pytest.approx([0.9])


def test_radam_by_hand():
    # Five steps by the mean gradient alone, then Adam's step of 1 times √((ρ−4)(ρ−2)·1999 / (1995·1997·ρ)), ρ = 5.99.
    samples = 1999 - 12 * 0.999**6 / (1 - 0.999**6)
    factor = math.sqrt((samples - 4) * (samples - 2) * 1999 / (1995 * 1997 * samples))
    assert samples == pytest.approx(5.9942, abs=1e-3)
    assert factor == pytest.approx(0.0258, abs=1e-3)
    path = walk(RAdam(lr=0.1, weight_decay=0.0), [2] * 6)
    assert path == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0, -0.1 * factor], abs=1e-9)


def test_learning_rates_are_scaled_with_the_batch_where_asked():
    assert SGD(lr=0.1).scaled(512) == SGD(lr=0.1)
    scaled = SGD(lr=0.1, reference_batch=256, momentum=0.5).scaled(64)
    assert scaled == SGD(lr=0.025, momentum=0.5)
    assert scaled.scaled(64) == scaled


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (GradientDescent, {"weight_decay": -1.0}, r"weight_decay = -1\.0: expected a number of at least 0"),
        (SGD, {"reference_batch": 0}, "reference_batch = 0: expected a number above 0"),
        (Adagrad, {"initial_sum": -1.0}, r"initial_sum = -1\.0: expected a number of at least 0"),
        (Adagrad, {"eps": 0.0}, r"eps = 0\.0: expected a number above 0"),
        (RMSProp, {"smoothing": 1.0}, r"smoothing = 1\.0: expected a number of at least 0 and below 1"),
        (RMSProp, {"momentum": -0.5}, r"momentum = -0\.5: expected"),
        (RMSProp, {"eps": -1.0}, r"eps = -1\.0: expected"),
        (Adam, {"beta1": 1.0}, r"beta1 = 1\.0: expected"),
        (RAdam, {"beta2": -0.1}, r"beta2 = -0\.1: expected"),
        (Swats, {"tolerance": 0.0}, r"tolerance = 0\.0: expected a number above 0"),
        (Swrats, {"eps": math.inf}, "eps = inf: expected a number above 0"),
        (Adam, {"lr": math.nan}, "lr = nan: expected a number above 0"),
    ],
)
def test_what_optimizers_refuse(kind, settings, message):
    with pytest.raises(AlnError, match=message):
        kind(**settings)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_goes_on_from_its_saved_state(name, tmp_path):
    """Bit by bit, and from a file that is read without running code."""

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(12, 2))

    def steps(net: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            torch.manual_seed(number)
            optimizer.zero_grad()
            net(torch.randn(4, 1, 3, 3)).square().mean().backward()
            optimizer.step()

    setting = OPTIMIZERS.get(name)(lr=0.01, weight_decay=0.1)
    whole, half, rest = model(), model(), model()
    steps(whole, setting.build(whole), range(8))
    saved = setting.build(half)
    steps(half, saved, range(4))
    torch.save([half.state_dict(), saved.state_dict()], tmp_path / "half.pt")
    weights, state = torch.load(tmp_path / "half.pt", weights_only=True)
    rest.load_state_dict(weights)
    loaded = setting.build(rest)
    loaded.load_state_dict(state)
    steps(rest, loaded, range(4, 8))
    for a, b in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_weight_without_gradient_stands_still(name):
    model = nn.Linear(2, 2, bias=False)
    other = nn.Linear(2, 2, bias=False)
    optimizer = OPTIMIZERS.get(name)(weight_decay=0.5).build(nn.Sequential(model, other))
    for _ in range(2):
        before = other.weight.detach().clone()
        model.weight.grad, other.weight.grad = torch.ones(2, 2), None
        optimizer.step()
        assert torch.equal(other.weight, before)
        other.weight.grad = torch.ones(2, 2)
        optimizer.step()
        assert not torch.equal(other.weight, before)


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Optimizer()


def test_names():
    names = {"sgd", "momentum", "gd", "adagrad", "rmsprop", "adam", "radam", "swats", "swrats"}
    assert set(OPTIMIZERS) == names
