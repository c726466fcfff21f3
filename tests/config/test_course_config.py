"""What of a training's course does not go together is said before anything starts."""

import pytest

from aln.config import check_run, parse_run
from aln.config.course import course_of, scheduled_rule
from aln.optim import CoefficientSchedule, Course
from aln.rules import SymmetricAlignment


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"rule": "feedback", "alignment_optimizer": "adam"},
            "alignment_optimizer: is adam, but feedback has no backward weight that learns",
        ),
        (
            {"rule": "backprop", "delay_epochs": 2},
            "delay_epochs: is 2.0, but backprop has nothing to train without the task",
        ),
        (
            {"rule": "symmetric", "delay_epochs": 99},
            "delay_epochs: is 99.0, but the task would not be trained: expected fewer than 20",
        ),
        ({"accumulate": 3}, "accumulate: is 3, but a worker's 64 images of a batch do not fall into equal parts"),
        ({"accumulate": 4, "batch_size": 24, "resources": {"workers": 4}}, "accumulate: is 4, but a worker's 6 images"),
        ({"resources": {"workers": 3}}, "batch_size: is 64, expected a multiple of resources.workers, 3"),
        (
            {"alignment_schedule": "step"},
            "alignment_schedule: is step, but there is no alignment_optimizer to follow it",
        ),
        (
            {"rule": "mirror", "coefficients": {"gamma": {}}},
            "gamma is no coefficient of WeightMirror",
        ),
        ({"clip": {"norm": 1, "value": 1}}, "clip: norm = 1.0, value = 1.0: expected one of them"),
        (
            {"rule": "mirror", "rates": {"loss": 0, "alignment": 0}},
            "rates: loss_rate = alignment_rate = 0",
        ),
        ({"rule": "mirror", "noise": {"variance": 1, "part": "B"}}, "noise.part: is 'B': input should be 'all'"),
        (
            {"rule": "feedback", "noise": {"variance": 1, "part": "backward"}},
            "noise.part: is backward, but feedback has no backward weight that learns",
        ),
        (
            {"rule": {"name": "mirror", "align_every": 2}, "alternate_step_freq": 1},
            "alternate_step_freq: is 1, but mirror leaves out steps itself (align_every)",
        ),
        (
            {"rule": {"name": "mirror", "update_forward": True}, "alignment_optimizer": "adam"},
            "alignment_optimizer: is adam, but mirror moves forward weights too",
        ),
        (
            {"rule": "product_feedback", "alternate_step_freq": 1},
            "alternate_step_freq: is 1, but product_feedback has nothing to train without the task",
        ),
        ({"rates": {"loss": 0}}, "rates.loss: is 0.0, but backprop has nothing to train without the task"),
        ({"alternate_step_freq": 1.5}, "alternate_step_freq: is 1.5: input should be a valid integer"),
        ({"rule": "mirror", "coefficients": {"alpha": {"rat": 1}}}, "coefficients.alpha.rat: unknown key"),
        ({"rule": "mirror", "coefficients": {"alpha": {"start": 0.5, "stop": 0.5}}}, "coefficients.alpha: start = 0.5"),
        (
            {"rule": "mirror", "coefficients": {"input_stddev": {"stop": 0.5}}},
            "coefficients.input_stddev: at epoch 10.1 of 20: input_stddev = 0.0: expected a number above 0",
        ),
    ],
)
def test_what_does_not_go_together_is_named(content, message):
    (found,) = check_run(content)[1]
    assert message in str(found)


def test_all_of_it_at_once():
    content = {"epochs": 2, "delay_epochs": 2, "clip": {"norm": 1, "value": 1}, "accumulate": 5}
    keys = [problem.key for problem in check_run(content)[1]]
    assert keys == ["delay_epochs", "delay_epochs", "accumulate", "clip"]


def test_the_course_is_that_of_the_run():
    assert course_of(parse_run({})) == Course()
    rates = {"loss": 0.5, "alignment": 2.0, "drops": [3, 6.5], "gamma": 0.2}
    config = parse_run({"rule": "symmetric", "delay_epochs": 1.5, "alternate_step_freq": 3, "rates": rates})
    assert course_of(config) == Course(
        delay_epochs=1.5, alternate_step_freq=3, loss_rate=0.5, alignment_rate=2.0, rate_drops=(3, 6.5), rate_gamma=0.2
    )


def test_the_scheduled_rule_is_that_of_the_run():
    assert scheduled_rule(parse_run({"rule": "symmetric"})) is None
    alpha = {"schedule": "exponential", "rate": -0.1, "start": 0.25, "stop": 0.75, "cycle": 2}
    found = scheduled_rule(parse_run({"rule": {"name": "symmetric", "beta": 1}, "coefficients": {"alpha": alpha}}))
    assert found.rule == SymmetricAlignment(beta=1.0)
    assert found.schedules == {"alpha": CoefficientSchedule(**alpha)}
