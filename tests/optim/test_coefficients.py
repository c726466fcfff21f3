"""Coefficients over time, against numbers worked out by hand."""

import math
from dataclasses import dataclass

import pytest

from aln.errors import AlnError, RuleError
from aln.optim import CoefficientSchedule, ScheduledRule
from aln.optim.coefficients import coefficients
from aln.rules import (
    AkroutMirror,
    FeedbackAlignment,
    InformationAlignment,
    KolenPollack,
    LearningRule,
    PhaselessAlignment,
    SymmetricAlignment,
    WeightedPrimitives,
    WeightMirror,
)

LINEAR = CoefficientSchedule(rate=-0.25)
EXPONENTIAL = CoefficientSchedule(schedule="exponential", rate=-math.log(2))
WINDOW = {"start": 0.2, "stop": 0.6}


@pytest.mark.parametrize(
    ("schedule", "epoch", "expected"),
    [
        (CoefficientSchedule(), 7.5, 2),
        (LINEAR, 0, 2),
        (LINEAR, 4, 1),
        (LINEAR, 10, -0.5),
        (EXPONENTIAL, 0, 2),
        (EXPONENTIAL, 1, 1),
        (EXPONENTIAL, 3, 0.25),
        (EXPONENTIAL, 2.5, 2**-1.5),
        # Zero outside the window, and time counts from its start.
        (CoefficientSchedule(rate=1.0, **WINDOW), 1.99, 0),
        (CoefficientSchedule(rate=1.0, **WINDOW), 2, 2),
        (CoefficientSchedule(rate=1.0, **WINDOW), 4.5, 4.5),
        (CoefficientSchedule(rate=1.0, **WINDOW), 6, 6),
        (CoefficientSchedule(rate=1.0, **WINDOW), 6.01, 0),
        (CoefficientSchedule(schedule="exponential", rate=math.log(2), **WINDOW), 3, 4),
        # Up two epochs, down two.
        *[
            (CoefficientSchedule(rate=0.5, cycle=4.0), epoch, expected)
            for epoch, expected in [(0, 2), (1, 2.5), (2, 3), (3, 2.5), (4, 2), (5.5, 2.75), (10, 3)]
        ],
        (CoefficientSchedule(schedule="exponential", rate=math.log(2), cycle=4.0), 6, 8),
        (CoefficientSchedule(rate=0.5, cycle=2.0, **WINDOW), 3, 2.5),
        (CoefficientSchedule(rate=0.5, cycle=2.0, **WINDOW), 4, 2),
        (CoefficientSchedule(schedule="exponential", rate=1e3), 1, math.inf),
    ],
)
def test_schedules_of_a_coefficient_of_2_in_10_epochs(schedule, epoch, expected):
    assert schedule.at(2.0, epoch, 10) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("tenth", range(11))
def test_a_window_opens_and_closes_on_the_epoch(tenth):
    """Though 0.7 · 10 is more than 7 in floating-point numbers."""
    if tenth < 10:
        assert CoefficientSchedule(start=tenth / 10).at(1.0, tenth, 10) == 1
        assert CoefficientSchedule(start=tenth / 10, rate=1.0).at(1.0, tenth, 10) == pytest.approx(1)
    if tenth > 0:
        assert CoefficientSchedule(stop=tenth / 10).at(1.0, tenth, 10) == 1


def test_a_rule_over_time():
    rule = InformationAlignment(alpha=2.0, beta=1.0, gamma=0.5, center_input=True)
    scheduled = ScheduledRule(rule=rule, schedules={"alpha": LINEAR, "gamma": CoefficientSchedule(stop=0.5)})
    assert scheduled.at(0, 10) == rule
    assert scheduled.at(4, 10) == InformationAlignment(alpha=1.0, beta=1.0, gamma=0.5, center_input=True)
    assert scheduled.values(8, 10) == {"alpha": 0.0, "gamma": 0.0}
    assert scheduled.at(8, 10) == InformationAlignment(alpha=0.0, beta=1.0, gamma=0.0, center_input=True)


OPTIONS = ["input_stddev", "align_fraction"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (SymmetricAlignment(), [*OPTIONS, "alpha", "beta"]),
        (KolenPollack(), [*OPTIONS, "alpha"]),
        (AkroutMirror(), [*OPTIONS, "alpha", "beta", "damping"]),
        (WeightedPrimitives(), [*OPTIONS, "decay", "self", "amp", "sparse", "null"]),
        (PhaselessAlignment(), ["alpha", "beta", "stddev"]),
        (FeedbackAlignment(), []),
    ],
)
def test_coefficients_are_the_real_valued_settings(rule, expected):
    assert coefficients(rule) == expected


def test_a_users_coefficient_needs_no_default():
    @dataclass(frozen=True, kw_only=True)
    class Mine(LearningRule):
        pull: float
        count: int = 1

        def backward_grad(self, s):
            return self.pull * s.B

    assert coefficients(Mine(pull=1)) == ["pull"]
    assert ScheduledRule(rule=Mine(pull=1), schedules={"pull": LINEAR}).at(2, 4).pull == 0.5


def test_what_is_no_coefficient_is_refused_with_those_that_are():
    message = r"gama is no coefficient of WeightMirror \(known: input_stddev, align_fraction, alpha, beta\)"
    with pytest.raises(RuleError, match=message):
        ScheduledRule(rule=WeightMirror(), schedules={"gama": LINEAR})
    with pytest.raises(RuleError, match=r"alpa is no coefficient of WeightMirror; did you mean 'alpha'\?"):
        ScheduledRule(rule=WeightMirror(), schedules={"alpha": LINEAR, "alpa": LINEAR})
    with pytest.raises(RuleError, match=r"alpha is no coefficient of FeedbackAlignment \(known: none\)"):
        ScheduledRule(rule=FeedbackAlignment(), schedules={"alpha": LINEAR})


@pytest.mark.parametrize(
    ("name", "schedule", "message"),
    [
        ("input_stddev", CoefficientSchedule(stop=0.5), r"at epoch 5\.05 of 10: input_stddev = 0\.0: expected"),
        # Too large at the triangle's peak alone.
        ("align_fraction", CoefficientSchedule(rate=0.69, cycle=1.46), r"at epoch 0\.73 of 10: align_fraction = 1\.00"),
        ("alpha", CoefficientSchedule(schedule="exponential", rate=1e3), "alpha = inf: expected a finite number"),
    ],
)
def test_a_rule_is_tried_out_before_training(name, schedule, message):
    rule = WeightMirror(align_fraction=0.5)
    with pytest.raises(RuleError, match=message):
        ScheduledRule(rule=rule, schedules={name: schedule}).try_out(10)
    ScheduledRule(rule=rule, schedules={"alpha": LINEAR}).try_out(10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosine"}, "schedule = 'cosine': expected linear or exponential"),
        ({"rate": math.inf}, "rate = inf: expected a finite number"),
        ({"start": 0.5, "stop": 0.5}, r"start = 0\.5, stop = 0\.5: expected fractions, 0 ≤ start < stop ≤ 1"),
        ({"stop": 1.5}, r"stop = 1\.5: expected fractions"),
        ({"start": -0.1}, r"start = -0\.1, stop = 1\.0: expected fractions"),
        ({"cycle": 0.0}, r"cycle = 0\.0: expected a number above 0"),
    ],
)
def test_what_a_schedule_refuses(settings, message):
    with pytest.raises(AlnError, match=message):
        CoefficientSchedule(**settings)
