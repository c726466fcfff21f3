"""Schedules against numbers worked out by hand."""

import math

import pytest

from aln.errors import AlnError, RegistryError
from aln.optim import SCHEDULES, Constant, Cosine, Schedule, Step

COSINE, STEP, CONSTANT = Cosine(warmup_epochs=2), Step(warmup_epochs=5), Constant(warmup_epochs=4)


@pytest.mark.parametrize(
    ("schedule", "epoch", "epochs", "expected"),
    [
        (COSINE, 0, 10, 0),
        (COSINE, 0.5, 10, 0.25),
        (COSINE, 1, 10, 0.5),
        (COSINE, 2, 10, 1),
        (COSINE, 4, 10, 0.5 + math.sqrt(2) / 4),
        (COSINE, 6, 10, 0.5),
        (COSINE, 8, 10, 0.5 - math.sqrt(2) / 4),
        (COSINE, 10, 10, 0),
        (COSINE, 12, 10, 0),
        (Cosine(), 0, 4, 1),
        (Cosine(), 2, 4, 0.5),
        (STEP, 0, 90, 0),
        (STEP, 2.5, 90, 0.5),
        (STEP, 5, 90, 1),
        (STEP, 29.99, 90, 1),
        (STEP, 30, 90, 0.1),
        (STEP, 60, 90, 0.01),
        (STEP, 80, 90, 0.001),
        (STEP, 89.9, 90, 0.001),
        (Step(drops=[2, 1], gamma=0.5), 1.5, 3, 0.5),
        (Step(drops=[2, 1], gamma=0.5), 2, 3, 0.25),
        (Step(drops=[]), 100, 3, 1),
        (CONSTANT, 1, 10, 0.25),
        (CONSTANT, 4, 10, 1),
        (CONSTANT, 100, 10, 1),
        (Constant(), 0, 10, 1),
    ],
)
def test_schedules_by_hand(schedule, epoch, epochs, expected):
    assert schedule.factor(epoch, epochs) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_cosine_that_is_all_warm_up_only_rises(epochs):
    factors = [Cosine(warmup_epochs=2).factor(epoch / 4, epochs) for epoch in range(4 * epochs)]
    assert factors == pytest.approx([epoch / 8 for epoch in range(4 * epochs)])


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_schedules_refuse_a_negative_warm_up(schedule):
    with pytest.raises(AlnError, match=r"warmup_epochs = -1: expected a number of at least 0"):
        SCHEDULES.get(schedule)(warmup_epochs=-1)


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Schedule()


def test_names():
    assert set(SCHEDULES) == {"constant", "cosine", "step"}
    with pytest.raises(RegistryError, match=r"unknown schedule 'cosin'; did you mean 'cosine'\?"):
        SCHEDULES.get("cosin")
