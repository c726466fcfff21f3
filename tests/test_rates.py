"""Layers that train the task alone, alignment alone, or both at rates of their own; in float64 and for every rule."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from aln.conversion import align
from aln.layers import aligned_layers
from aln.rules import (
    RULES,
    AkroutKolenPollack,
    InformationAlignment,
    KolenPollack,
    LearningRule,
    ProductFeedback,
    SymmetricAlignment,
    WeightMirror,
)

LEARNING = [rule() for _, rule in RULES.items() if rule.learns_backward_weight] + [
    WeightMirror(input_distribution="normal"),
    InformationAlignment(update_forward=True),
    KolenPollack(update_forward=True),
]
every_learning_rule = pytest.mark.parametrize("rule", LEARNING, ids=lambda rule: type(rule).__name__)


def network(rule: LearningRule) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)]
    return align(nn.Sequential(*layers).double(), rule)


def gradients(net: nn.Module, *, task: bool = True, rate: float = 1.0) -> dict[str, torch.Tensor]:
    """What one pass gives every parameter and the input; noise is the same each time."""
    for layer in aligned_layers(net).values():
        layer.trains_task, layer.alignment_rate = task, rate
    torch.manual_seed(1)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    net.zero_grad()
    torch.manual_seed(2)
    net(x).square().sum().backward()
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return found if x.grad is None else found | {"x": x.grad}


def split(found: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    backward = {name: grad for name, grad in found.items() if name.endswith("backward_weight")}
    return backward, {name: grad for name, grad in found.items() if name not in backward}


@every_learning_rule
def test_both_are_the_sum_of_each_alone(rule):
    """And alignment's share is in proportion to its rate."""
    net = network(rule)
    both, task = gradients(net), gradients(net, rate=0.0)
    for rate in (1.0, 0.25, 3.0):
        alone = gradients(net, task=False, rate=rate)
        for name, grad in gradients(net, rate=rate).items():
            zero = torch.zeros_like(grad)
            assert_close(grad, task.get(name, zero) + alone.get(name, zero), rtol=1e-9, atol=1e-12)
            own = both[name] - task.get(name, zero)
            assert_close(alone.get(name, zero), rate * own, rtol=1e-9, atol=1e-12)


@every_learning_rule
def test_the_task_alone_is_what_the_rule_ties_to_it(rule):
    net = network(rule)
    backward, forward = split(gradients(net, rate=0.0))
    if not rule.shares_task_gradient:
        assert backward == {}
        assert not any(layer.aligned for layer in aligned_layers(net).values())
    elif not isinstance(rule, ProductFeedback):
        for name, grad in backward.items():
            assert_close(grad, forward[name.replace("backward_weight", "weight")], rtol=1e-12, atol=1e-15)
    assert forward.keys() == {"0.weight", "0.bias", "1.weight", "1.bias", "5.weight", "5.bias", "x"}


@every_learning_rule
def test_alignment_alone_moves_nothing_of_the_task(rule):
    backward, forward = split(gradients(network(rule), task=False))
    assert backward.keys() == {"0.backward_weight", "5.backward_weight"}
    assert forward.keys() == ({"0.weight", "5.weight"} if rule.moves_forward_weight else set())


def test_rates_by_hand():
    layer = align(nn.Linear(1, 1, bias=False, dtype=torch.float64), KolenPollack(alpha=0.5))
    nn.init.constant_(layer.weight, 2)
    nn.init.constant_(layer.backward_weight, 3)
    # dW = x·dy = 5·7; the rule's own 2αB = 3
    for task, rate, expected in [(True, 1, 38), (True, 0.5, 36.5), (True, 0, 35), (False, 1, 3), (False, 2, 6)]:
        layer.trains_task, layer.alignment_rate = task, rate
        layer.zero_grad()
        layer(torch.full((1, 1), 5.0, dtype=torch.float64)).backward(torch.full((1, 1), 7.0, dtype=torch.float64))
        assert float(layer.backward_weight.grad) == expected
        assert (None if layer.weight.grad is None else float(layer.weight.grad)) == (35 if task else None)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [(SymmetricAlignment(), True), (KolenPollack(), True), (AkroutKolenPollack(), False), (ProductFeedback(), False),
     *[(RULES.get(name)(), False) for name in ("backprop", "feedback", "usf", "frsf", "direct_feedback")]],
)  # fmt: skip
def test_rules_say_whether_alignment_can_be_trained_alone(rule, expected):
    assert rule.learns_without_task is expected


def test_a_rule_whose_weights_are_all_zero_teaches_nothing_in_any_turn():
    net = network(SymmetricAlignment(alpha=0.0, beta=0.0))
    assert split(gradients(net))[0] == {}
    assert not any(layer.aligned for layer in aligned_layers(net).values())
    tied = network(KolenPollack(alpha=0.0))
    assert split(gradients(tied))[0].keys() == {"0.backward_weight", "5.backward_weight"}


@pytest.mark.parametrize("rule", [InformationAlignment(), KolenPollack()], ids=lambda rule: type(rule).__name__)
def test_compiled_networks_take_turns_too(rule):
    torch._dynamo.reset()
    net = network(rule)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    for task, rate in [(True, 1.0), (True, 0.0), (False, 1.0), (True, 0.5)]:
        for layer in aligned_layers(net).values():
            layer.trains_task, layer.alignment_rate = task, rate
        found = []
        for call in (net, compiled):
            net.zero_grad()
            call(x).square().sum().backward()
            found.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
        assert_close(found[1], found[0], rtol=1e-12, atol=1e-15)
