"""Noise on updates: how large, on what, and the same wherever the seed is."""

import math

import pytest
import torch
from torch import nn

from aln.conversion import align
from aln.errors import AlnError
from aln.optim import GradientDescent, UpdateNoise
from aln.rules import KolenPollack


def network() -> nn.Module:
    torch.manual_seed(0)
    return align(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 40)), KolenPollack())


def disturbed(noise: UpdateNoise, model: nn.Module, seed: int = 3, still: tuple[str, ...] = ()) -> dict:
    """What the noise of one step, at a learning rate of 0.5, adds to each weight; the `still` ones have no gradient."""
    optimizer = GradientDescent(lr=0.5).build(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        p.grad = None if name in still else torch.zeros_like(p)
    noise.disturb(model, [optimizer], seed)
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_noise_has_the_variance_asked_for_times_the_squared_learning_rate(distribution):
    added = disturbed(UpdateNoise(variance=4.0, distribution=distribution), network())
    kernel = added["3.weight"]
    assert float(kernel.mean()) == pytest.approx(0, abs=0.1)
    assert float(kernel.std()) == pytest.approx(0.5 * 2, rel=0.05)
    if distribution == "uniform":
        assert float(kernel.abs().max()) == pytest.approx(0.5 * math.sqrt(12), rel=0.01)
    assert all(bool(tensor.any()) for tensor in added.values())


def test_noise_may_be_on_one_part_alone():
    backward = {"0.backward_weight", "3.backward_weight"}
    for part, expected in (("all", None), ("backward", backward)):
        added = disturbed(UpdateNoise(variance=1.0, part=part), network())
        assert {name for name, tensor in added.items() if tensor.any()} == (expected or set(added))
    added = disturbed(UpdateNoise(variance=1.0, part="forward"), network())
    assert {name for name, tensor in added.items() if tensor.any()} == set(added) - backward


def test_what_was_not_updated_is_left_alone():
    added = disturbed(UpdateNoise(variance=1.0), network(), still=("0.weight", "3.backward_weight"))
    assert {name for name, tensor in added.items() if not tensor.any()} == {"0.weight", "3.backward_weight"}


def test_noise_is_a_function_of_the_seed():
    noise = UpdateNoise(variance=1.0)
    first = disturbed(noise, network())
    again = disturbed(noise, network().to(memory_format=torch.channels_last))
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert not torch.equal(disturbed(noise, network(), seed=4)["3.weight"], first["3.weight"])
    assert not torch.equal(first["3.weight"], first["3.backward_weight"])


def test_noise_leaves_the_global_generator_alone():
    model = network()
    before = torch.get_rng_state()
    disturbed(UpdateNoise(variance=1.0), model)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_variance_there_is_none():
    assert not any(tensor.any() for tensor in disturbed(UpdateNoise(), network()).values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variance": -1.0}, r"variance = -1\.0: expected a number of at least 0"),
        ({"distribution": "gauss"}, "distribution = 'gauss': expected normal or uniform"),
        ({"part": "B"}, "part = 'B': expected all, forward or backward"),
    ],
)
def test_what_noise_refuses(settings, message):
    with pytest.raises(AlnError, match=message):
        UpdateNoise(**settings)
