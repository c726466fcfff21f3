"""Sweep plans: what fits, what the baselines are, what a point becomes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from aln.cluster import Cluster
from aln.config import Resources, parse_document, parse_run, parse_sweep
from aln.search.plan import SweepPlan
from aln.space import parse_space
from aln.worker_group import trials_at_once

SPACE = """
rule: information
parameters:
  rule.alpha: {min: 1e-4, max: 1e-2, log: true}
  rule.input_distribution: {value: normal}
  optimizer.lr: {value: 0.03}
"""


@pytest.fixture
def plan() -> SweepPlan:
    document = parse_document("run: {epochs: 3, optimizer: {name: sgd, momentum: 0.5}}")
    sweep, base = parse_sweep(document)
    space = parse_space(parse_document(SPACE), sweep.run)
    return SweepPlan(name="p", space=space, sweep=sweep, base=base, folder=Path("results/p"))


@pytest.mark.parametrize(
    ("cpus", "gpus", "have", "fit"),
    [
        (1, 0, (2, 0), 2),
        (2, 0, (3, 0), 1),
        (4, 0, (3, 0), 0),
        (1, 1, (16, 2), 2),
        (1, 0.25, (16, 2), 8),
        (1, 0.3, (16, 2), 6),  # three on each: a trial does not straddle two GPUs
        (1, 2, (16, 3), 1),
        (1, 1, (16, 0), 0),
    ],
)
def test_how_many_trials_fit(cpus: int, gpus: float, have: tuple[float, float], fit: int) -> None:
    assert trials_at_once(Cluster("here", [have]), Resources(cpus=cpus, gpus=float(gpus))) == fit


def test_baselines_share_the_recipe_but_not_the_rules_settings(plan: SweepPlan) -> None:
    feedback = plan.baseline("feedback")
    assert feedback["rule"] == {"name": "feedback"}
    assert feedback["optimizer"] == {"name": "sgd", "momentum": 0.5, "lr": 0.03}


def test_a_point_becomes_a_whole_run(plan: SweepPlan) -> None:
    flat = plan.config({"rule.alpha": 5e-4}).flat()
    assert flat["rule.name"] == "information"
    assert flat["rule.alpha"] == 5e-4
    assert flat["rule.input_distribution"] == "normal"
    assert flat["optimizer.lr"] == 0.03
    assert flat["epochs"] == 3


def test_a_plan_survives_pickling(plan: SweepPlan) -> None:
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (0.25, "cuda")])
def test_trials_say_on_which_device_they_run(gpus: float, device: str) -> None:
    """What `auto` means differs from machine to machine; best.yaml must repeat the trial."""
    sweep, base = parse_sweep(parse_document(f"run: {{resources: {{gpus: {gpus}}}}}"))
    space = parse_space(parse_document(SPACE), sweep.run)
    plan = SweepPlan(name="p", space=space, sweep=sweep, base=base, folder=Path("results/p"))
    assert plan.content({"rule.alpha": 1e-3})["compute"] == {"device": device}
    assert plan.baseline("backprop")["compute"]["device"] == device


def test_a_device_that_is_named_stays(plan: SweepPlan) -> None:
    sweep, base = parse_sweep(parse_document("run: {compute: {device: mps, precision: float32}}"))
    named = SweepPlan(name="p", space=plan.space, sweep=sweep, base=base, folder=plan.folder)
    assert named.content({"rule.alpha": 1e-3})["compute"] == {"device": "mps", "precision": "float32"}


def test_baselines_take_nothing_of_how_alignment_is_trained() -> None:
    """Which their rules may not have."""
    text = "run: {alignment_optimizer: adam, delay_epochs: 2.0, noise: {variance: 1e-3}}"
    sweep, base = parse_sweep(parse_document(text))
    fixed = "  coefficients.alpha.rate: {value: 0.1}\n  alternate_step_freq: {value: 1}\n"
    space = parse_space(parse_document(SPACE + fixed), sweep.run)
    plan = SweepPlan(name="p", space=space, sweep=sweep, base=base, folder=Path("results/p"))
    for rule in ("backprop", "feedback"):
        config = parse_run(plan.baseline(rule))
        assert config.alignment_optimizer is None
        assert (config.delay_epochs, config.alternate_step_freq, dict(config.coefficients)) == (0, 0, {})
        assert config.noise.variance == 1e-3
    point = plan.config({"rule.alpha": 1e-3})
    assert (point.delay_epochs, point.alternate_step_freq) == (2, 1)
    assert point.coefficients["alpha"].rate == 0.1


def test_repetitions_have_seeds_one_after_the_other(plan: SweepPlan) -> None:
    assert [plan.content({"rule.alpha": 1e-3}, repetition)["seed"] for repetition in range(3)] == [0, 1, 2]
    assert plan.baseline("backprop", 2)["seed"] == 2
