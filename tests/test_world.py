"""Workers of one model: what they share."""

from __future__ import annotations

import torch
from torch import nn

from aln.data import WHOLE
from aln.world import ALONE, World


def test_one_worker_communicates_nothing():
    assert World.current() == ALONE
    assert ALONE.share == WHOLE
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    model(torch.randn(3, 1, 2, 2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert ALONE.parallel(model) is model
    ALONE.average_statistics(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    numbers = torch.tensor([1.0, 2.0])
    assert ALONE.sum(numbers) is numbers
    assert numbers.tolist() == [1.0, 2.0]
