"""Clipping against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from aln.errors import AlnError
from aln.optim import Clip, GradientDescent


def clipped(clip: Clip, weight_decay: float = 0.0) -> tuple[list[float], torch.optim.Optimizer]:
    """Gradients of two weights, 1 and 2, after clipping 3 and 4; a third has none."""
    first, second, still = (nn.Linear(1, 1, bias=False) for _ in range(3))
    nn.init.constant_(first.weight, 1)
    nn.init.constant_(second.weight, 2)
    optimizer = GradientDescent(weight_decay=weight_decay).build(nn.Sequential(first, second, still))
    first.weight.grad, second.weight.grad = torch.full((1, 1), 3.0), torch.full((1, 1), -4.0)
    clip.cut(optimizer)
    assert still.weight.grad is None
    return [float(first.weight.grad), float(second.weight.grad)], optimizer


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (Clip(), [3, -4]),
        (Clip(norm=5.5), [3, -4]),
        (Clip(norm=1.0), [0.6, -0.8]),
        (Clip(value=3.5), [3, -3.5]),
        (Clip(value=1.0), [1, -1]),
    ],
)
def test_by_norm_of_all_weights_together_or_by_value(clip, expected):
    found, _ = clipped(clip)
    assert found == pytest.approx(expected, rel=1e-5)


def test_weight_decay_is_clipped_with_the_rest():
    # 3 + 9·1 = 12 and −4 + 9·2 = 14, whose norm is √340
    found, optimizer = clipped(Clip(norm=1.0), weight_decay=9.0)
    assert found == pytest.approx([12 / math.sqrt(340), 14 / math.sqrt(340)], rel=1e-5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0]  # it is in the gradient already
    found, _ = clipped(Clip(value=13.0), weight_decay=9.0)
    assert found == [12, 13]


def test_without_bounds_the_optimizer_sees_to_weight_decay_itself():
    found, optimizer = clipped(Clip(), weight_decay=9.0)
    assert found == [3, -4]
    assert optimizer.param_groups[0]["weight_decay"] == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": 0.0}, r"norm = 0\.0: expected a number above 0"),
        ({"value": -1.0}, r"value = -1\.0: expected a number above 0"),
        ({"norm": 1.0, "value": 2.0}, r"norm = 1\.0, value = 2\.0: expected one of them"),
    ],
)
def test_what_clipping_refuses(settings, message):
    with pytest.raises(AlnError, match=message):
        Clip(**settings)
