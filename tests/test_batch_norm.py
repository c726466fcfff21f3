"""Batch norms of many workers, as one worker sees them; what two see is in test_distributed_fit."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from aln.batch_norm import SharedBatchNorm, synchronise


def network() -> nn.Module:
    norm = nn.BatchNorm2d(3, momentum=0.3)
    torch.manual_seed(0)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return nn.Sequential(nn.Conv2d(2, 3, 1), norm, nn.ModuleDict({"inner": norm})["inner"])


@pytest.fixture
def two_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of two workers who hold the same: what they sum up is twice what each has."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.mul_(2))


def test_synchronised_norms_share_parameters_and_names_and_stay_shared() -> None:
    model = network()
    before, state = dict(model.named_parameters()), list(model.state_dict())
    assert synchronise(model) is model
    assert isinstance(model[1], SharedBatchNorm)
    assert model[1] is model[2]
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert list(model.state_dict()) == state


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("shape", [(6, 3, 4, 4), (6, 3)])
def test_it_is_the_batch_norm_of_the_whole_batch(
    two_in_one: None, shape: tuple[int, ...], momentum: float | None
) -> None:
    plain = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(3, momentum=momentum).double()
    nn.init.normal_(plain.weight)
    shared = SharedBatchNorm.convert(copy.deepcopy(plain))
    for _ in range(2):
        x = (5 + 3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
        twice = torch.cat([x.detach(), x.detach()]).requires_grad_()
        y, expected = shared(x), plain(twice)
        torch.testing.assert_close(y, expected[: len(x)])
        y.pow(3).mean().backward()
        expected.pow(3).mean().backward()
        # The mean over two workers of gradients of their own means: of x, half of it here and half there.
        torch.testing.assert_close(x.grad, 2 * twice.grad[: len(x)])
    torch.testing.assert_close(dict(shared.named_parameters())["weight"].grad, plain.weight.grad)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(shared.named_buffers())[name], buffer)


def test_half_precision_is_computed_in_float32(two_in_one: None) -> None:
    shared = SharedBatchNorm.convert(nn.BatchNorm2d(3))
    x = 100 + torch.randn(64, 3, 2, 2)
    y = shared(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), nn.BatchNorm2d(3)(x.bfloat16().float()), rtol=1e-2, atol=1e-2)


def test_one_worker_and_evaluation_communicate_nothing() -> None:
    plain = nn.BatchNorm2d(3)
    shared = SharedBatchNorm.convert(copy.deepcopy(plain))
    x = torch.randn(5, 3, 2, 2)
    assert torch.equal(shared(x), plain(x))
    assert torch.equal(shared.eval()(x), plain.eval()(x))


def test_it_asks_for_channels(two_in_one: None) -> None:
    with pytest.raises(ValueError, match=r"expected \[N, C, ...\], got \[3\]"):
        SharedBatchNorm.convert(nn.BatchNorm2d(3))(torch.randn(3))
