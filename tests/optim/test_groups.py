"""Which parameters an optimizer moves, and which decay."""

import pytest
from torch import nn

from aln.conversion import align
from aln.errors import AlnError
from aln.layers import aligned_layers
from aln.optim import SGD, backward_weights, parameter_groups
from aln.rules import RULES


def network(rule: str) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    return align(model, RULES.get(rule)())


def names(model: nn.Module, group: dict) -> set[str]:
    found = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in found}


FORWARD = {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"}
DECAYING = {"0.weight", "3.weight", "3.bias"}
BACKWARD = {"0.backward_weight", "3.backward_weight"}


@pytest.mark.parametrize(("rule", "backward"), [("backprop", set()), ("feedback", set()), ("information", BACKWARD)])
def test_kernels_and_linear_biases_decay_and_nothing_else(rule, backward):
    model = network(rule)
    decaying, others = parameter_groups(model, 0.01)
    assert decaying["weight_decay"] == 0.01
    assert others["weight_decay"] == 0.0
    assert names(model, decaying) == DECAYING
    assert names(model, others) == FORWARD - DECAYING | backward
    assert len(decaying["params"]) + len(others["params"]) == len(FORWARD | backward)


def test_frozen_weights_are_in_no_group():
    model = network("feedback")
    assert all(layer.backward_weight is not None for layer in aligned_layers(model).values())
    model[0].weight.requires_grad_(False)
    decaying, others = parameter_groups(model, 0.01)
    assert names(model, decaying) | names(model, others) == FORWARD - {"0.weight"}


def test_a_shared_layer_is_listed_once():
    layer = nn.Linear(2, 2)
    decaying, others = parameter_groups(nn.Sequential(layer, layer), 0.01)
    assert [id(p) for p in decaying["params"]] == [id(layer.weight), id(layer.bias)]
    assert others["params"] == []


@pytest.mark.parametrize("rule", ["information", "akrout_kolen_pollack"])
def test_the_two_parts_are_the_whole(rule):
    model = network(rule)
    forward, backward = (parameter_groups(model, 0.01, part) for part in ("forward", "backward"))
    assert names(model, forward[0]) == DECAYING
    assert names(model, forward[1]) == FORWARD - DECAYING
    decaying = BACKWARD if rule == "akrout_kolen_pollack" else set()
    assert names(model, backward[0]) == decaying
    assert names(model, backward[1]) == BACKWARD - decaying
    assert [group["weight_decay"] for group in backward] == [0.01, 0.0]


def test_backward_weights_are_those_that_learn():
    model = network("information")
    assert [id(B) for B in backward_weights(model)] == [id(model[0].backward_weight), id(model[3].backward_weight)]
    assert backward_weights(network("feedback")) == []
    assert backward_weights(network("backprop")) == []


def test_a_part_without_weights_is_refused():
    with pytest.raises(AlnError, match="the model has no backward weights to train"):
        SGD().build(network("feedback"), "backward")
    with pytest.raises(AlnError, match="the model has no weights to train"):
        SGD().build(nn.ReLU())
