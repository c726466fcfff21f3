"""The command of a point describes the very run that the sweep trained."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from aln.config import Document, parse_run, read_run, with_settings
from aln.report.commands import train_command
from aln.space import parse_space

RECIPE = {"model": {"width": 16, "name": "mlp"}, "data": {"name": "digits", "shift": 1}, "epochs": 3, "seed": 7}
CHANGING = {"coefficients": {"alpha": {"schedule": "linear", "rate": -1e-4}}}


@pytest.mark.parametrize(
    ("rule", "recipe", "point"),
    [
        ("information", RECIPE, {"rule.alpha": 1e-05, "rule.input_distribution": None}),
        ("mirror", RECIPE, {"rule.alpha": 0.1, "rule.input_distribution": "normal"}),  # its preset says more
        ("symmetric", {**RECIPE, **CHANGING}, {"rule.alpha": 0.5}),
        ("backprop", RECIPE, {"schedule": {"name": "step", "drops": [2]}, "optimizer.lr": 0.1}),
        ("feedback", {}, {"optimizer.nesterov": False}),
    ],
    ids=["preset", "no-plain-preset", "coefficients-over-time", "sections", "defaults"],
)
def test_it_is_the_same_run(rule: str, recipe: dict[str, Any], point: dict[str, Any]) -> None:
    parameters = {
        key: {"values": [value]} if not isinstance(value, dict) else {"value": value} for key, value in point.items()
    }
    space = parse_space(Document({"rule": rule, "parameters": parameters}), recipe)
    content = space.apply(recipe, point)
    python, option, module, preset, *settings = shlex.split(train_command(content))
    assert (python, option, module) == ("python", "-m", "aln.train")
    again = parse_run(with_settings(read_run(preset), settings[1:]))
    assert again.plain() == parse_run(content).plain()
