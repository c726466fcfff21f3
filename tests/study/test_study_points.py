"""Points of several spaces as one space: whatever was found is trained as it was."""

from __future__ import annotations

from typing import Any

import pytest

from aln.config import Document
from aln.space import RULE, SearchSpace, parse_space
from aln.study.points import space_of

SPACES: dict[str, dict[str, Any]] = {
    "information": {
        "rule": "information",
        "parameters": {
            "rule.alpha": {"min": 1e-4, "max": 1e-1, "log": True},
            "rule.beta": {"tie": "rule.alpha", "factor": 0.1},
            "rule.input_distribution": {"values": [None, "normal"]},
            "rule.input_stddev": {"min": 0.5, "max": 2.0, "when": {"rule.input_distribution": "normal"}},
            "optimizer.lr": {"value": 0.05},
        },
    },
    "usf": {
        "rule": "usf",
        "parameters": {"rule.scale": {"values": ["fan", "unit"]}, "optimizer.lr": {"min": 0.01, "max": 0.3}},
    },
    "either": {
        "rule": {"values": ["mirror", "symmetric"]},
        "parameters": {
            "rule.alpha": {"min": 1e-4, "max": 1.0, "log": True},
            "rule.input_distribution": {"value": "normal", "when": {RULE: "mirror"}},
            "optimizer.nesterov": {"values": [True, False]},
        },
    },
    "shapes": {
        "rule": "backprop",
        "parameters": {"schedule": {"values": [{"name": "step", "drops": [1, 2]}, {"name": "constant"}]}},
    },
}
NOISY = {"rule.alpha": 0.01, "rule.input_distribution": "normal", "rule.input_stddev": 1.5}
CLEAN = {"rule.alpha": 0.02, "rule.input_distribution": None}
SIGNS = {"rule.scale": "unit", "optimizer.lr": 0.1}
MIRROR = {RULE: "mirror", "rule.alpha": 0.3, "rule.input_distribution": "normal", "optimizer.nesterov": True}
SYMMETRIC = {RULE: "symmetric", "rule.alpha": 0.3, "optimizer.nesterov": False}
STEPS = {"schedule": {"name": "step", "drops": (1, 2)}}


def read(name: str) -> SearchSpace:
    return parse_space(Document(SPACES[name]), RUN)


RUN: dict[str, Any] = {"model": {"name": "mlp", "width": 8}, "data": "synthetic", "optimizer": {"momentum": 0.9}}


@pytest.mark.parametrize(
    "found",
    [
        [("information", NOISY)],
        [("information", NOISY), ("information", CLEAN)],
        [("information", CLEAN), ("usf", SIGNS)],
        [("either", MIRROR), ("either", SYMMETRIC)],
        [("usf", SIGNS), ("either", SYMMETRIC), ("information", NOISY), ("either", MIRROR), ("information", CLEAN)],
        [("shapes", STEPS), ("usf", SIGNS)],
    ],
    ids=["one", "two of a rule", "two rules", "of a space over rules", "many", "a whole section"],
)
def test_each_point_is_the_run_that_it_was(found: list[tuple[str, dict[str, Any]]]) -> None:
    pairs = [(read(name), point) for name, point in found]
    space = parse_space(Document(space_of("best", pairs)), RUN)
    assert [space.apply(RUN, point) for point in space.enqueued] == [own.apply(RUN, point) for own, point in pairs]


def test_what_all_spaces_fix_alike_is_fixed_for_the_baselines_too() -> None:
    alone = parse_space(Document(space_of("best", [(read("information"), NOISY), (read("information"), CLEAN)])), RUN)
    assert alone.fixed == {"optimizer.lr": 0.05}
    beside = parse_space(Document(space_of("best", [(read("information"), CLEAN), (read("usf"), SIGNS)])), RUN)
    assert beside.fixed == {}


def test_nothing_is_left_for_a_sampler_to_choose() -> None:
    found = [(read("information"), NOISY), (read("information"), CLEAN), (read("usf"), SIGNS)]
    space = parse_space(Document(space_of("best", found)), RUN)
    for point in space.enqueued:
        assert space.choose(lambda key, _, point=point: point[key]) == point  # KeyError for what it lacks
