"""Which of task and alignment a step trains, against a calendar worked out by hand."""

import math

import pytest

from aln.errors import AlnError
from aln.optim import Constant, Cosine, Course, Step, Turn

EPOCHS = 10
STEP = Step(warmup_epochs=2, drops=(4, 6), gamma=0.1)


def turns(course: Course, steps_per_epoch: int = 1, **schedules) -> list[Turn]:
    schedules = {"schedule": Constant(), **schedules}
    total = EPOCHS * steps_per_epoch
    return [course.turn(step / steps_per_epoch, EPOCHS, step, **schedules) for step in range(total)]


def test_by_default_every_step_trains_both_at_full_rate():
    found = turns(Course(), schedule=STEP)
    assert [turn.lr_factor for turn in found] == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01])
    assert [turn.alignment_lr_factor for turn in found] == [turn.lr_factor for turn in found]
    assert {(turn.task, turn.alignment, turn.loss_rate, turn.alignment_rate) for turn in found} == {(True, True, 1, 1)}


def test_alignment_may_have_a_schedule_of_its_own():
    found = turns(Course(), schedule=STEP, alignment_schedule=Cosine())
    assert [turn.lr_factor for turn in found][:3] == [0, 0.5, 1]
    assert found[5].alignment_lr_factor == pytest.approx(0.5)


def test_delay_trains_alignment_alone_at_first():
    found = turns(Course(delay_epochs=2.5), steps_per_epoch=2)
    assert [turn.task for turn in found] == [False] * 5 + [True] * 15
    assert [turn.loss_rate for turn in found[3:7]] == [0, 0, 1, 1]
    assert all(turn.alignment_rate == 1 for turn in found)


def test_the_tasks_schedule_begins_after_the_delay_and_alignments_drops_shift():
    found = turns(Course(delay_epochs=3), schedule=STEP)
    # One optimizer for both: alignment's factor while the task waits, then the task's.
    warming, later = [0, 0.5, 1], [0, 0.5, 1, 1, 0.1, 0.1, 0.01]
    assert [turn.lr_factor for turn in found] == pytest.approx(warming + later)
    own = [turn.alignment_lr_factor for turn in found]
    assert own == pytest.approx([0, 0.5, 1, 1, 1, 1, 1, 0.1, 0.1, 0.01])


def test_a_cosine_falls_over_what_the_delay_leaves():
    course = Course(delay_epochs=2)
    assert course.task_factor(Cosine(), 6, EPOCHS) == pytest.approx(0.5)
    assert course.alignment_factor(Cosine(), 1, EPOCHS) == 1
    assert course.alignment_factor(Cosine(warmup_epochs=4), 1, EPOCHS) == 0.25
    assert course.alignment_factor(Cosine(warmup_epochs=4), 8, EPOCHS) == pytest.approx(0.5)  # 2 + 4 + half of 4


@pytest.mark.parametrize(
    ("k", "aligning"),
    [(0, range(10)), (1, (0, 2, 4, 6, 8)), (2, (0, 3, 6, 9)), (3, (0, 4, 8)), (20, (0,))],
)
def test_alternation(k, aligning):
    found = turns(Course(alternate_step_freq=k))
    assert [step for step, turn in enumerate(found) if turn.alignment] == list(aligning)
    others = range(10) if k == 0 else [step for step in range(10) if step not in aligning]
    assert [step for step, turn in enumerate(found) if turn.task] == list(others)


def test_alternation_stretches_schedules():
    found = turns(Course(alternate_step_freq=1), schedule=STEP)
    expected = [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0.1, 0.1]
    assert [turn.lr_factor for turn in found] == pytest.approx(expected)
    assert [turn.alignment_lr_factor for turn in found] == pytest.approx(expected)
    assert Course(alternate_step_freq=2).task_factor(Cosine(), 5, 10) == pytest.approx(0.5)


def test_alternation_begins_after_the_delay_and_counts_steps_of_the_whole_training():
    course = Course(delay_epochs=3, alternate_step_freq=1)
    found = turns(course, schedule=STEP)
    assert [turn.task for turn in found] == [False, False, False, True, False, True, False, True, False, True]
    assert [turn.alignment for turn in found] == [True, True, True, False, True, False, True, False, True, False]
    assert course.task_factor(STEP, 5, EPOCHS) == 0.5  # (5 − 3) / 2 epochs into a warm-up of 2
    assert course.alignment_factor(STEP, 5, EPOCHS) == 1
    assert course.task_factor(STEP, 3 + 2 * 4, 20) == pytest.approx(0.1)


def test_rates_and_their_drops():
    course = Course(loss_rate=0.5, alignment_rate=2.0, rate_drops=(3, 6, 8))
    found = turns(course)
    assert [turn.loss_rate for turn in found] == pytest.approx([0.5] * 3 + [0.05] * 3 + [0.005] * 2 + [0.0005] * 2)
    assert [turn.alignment_rate for turn in found] == pytest.approx([2] * 3 + [0.2] * 3 + [0.02] * 2 + [0.002] * 2)
    assert turns(Course(rate_drops=(1,), rate_gamma=0.5))[1].alignment_rate == 0.5


def test_what_has_no_rate_is_not_trained():
    assert {(turn.task, turn.alignment) for turn in turns(Course(alignment_rate=0.0))} == {(True, False)}
    assert {(turn.task, turn.alignment) for turn in turns(Course(loss_rate=0.0))} == {(False, True)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delay_epochs": -1.0}, r"delay_epochs = -1\.0: expected a number of at least 0"),
        ({"alternate_step_freq": -1}, "alternate_step_freq = -1: expected a number of at least 0"),
        ({"loss_rate": math.nan}, "loss_rate = nan: expected"),
        ({"alignment_rate": -0.1}, r"alignment_rate = -0\.1: expected"),
        ({"loss_rate": 0, "alignment_rate": 0}, "loss_rate = alignment_rate = 0: expected one of them above 0"),
        ({"rate_gamma": 0.0}, r"rate_gamma = 0\.0: expected a number above 0"),
        ({"rate_drops": (1.0, math.inf)}, r"rate_drops = \(1\.0, inf\): expected finite numbers"),
    ],
)
def test_what_a_course_refuses(settings, message):
    with pytest.raises(AlnError, match=message):
        Course(**settings)
