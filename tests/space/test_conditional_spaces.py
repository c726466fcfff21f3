"""Spaces over several rules, conditions and ties: what is there at which point, and what is refused."""

from __future__ import annotations

import random

import pytest
from reading import problems, read

from aln.config import parse_run
from aln.space import Choice, Range, format_point

TWO_RULES = """\
rule: {values: [information, mirror]}
parameters:
  rule.alpha: {min: 1e-4, max: 1e-1, log: true}
  rule.gamma: {min: 1e-4, max: 1e-1, log: true, when: {rule.name: information}}
  rule.input_distribution: {value: normal, when: {rule.name: mirror}}
  optimizer.lr: {min: 0.01, max: 0.3}
"""


def test_a_space_ranges_over_rules():
    space = read(TWO_RULES)
    assert (space.rule, space.rules) == ("information|mirror", ("information", "mirror"))
    assert list(space.parameters) == [
        "rule.name",
        "rule.alpha",
        "rule.gamma",
        "rule.input_distribution",
        "optimizer.lr",
    ]
    assert space.parameters["rule.gamma"].when == {"rule.name": ("information",)}


def test_rules_may_be_named_among_the_parameters():
    within = "parameters:\n  optimizer.lr: {min: 0.01, max: 0.3}\n  rule.name: {values: [information, mirror]}\n"
    space = read(within)
    assert space.rules == ("information", "mirror")
    assert next(iter(space.parameters)) == "rule.name"
    assert read("rule: {values: [usf, frsf]}").rules == ("usf", "frsf")


@pytest.mark.parametrize("rule", ["information", "mirror"])
def test_only_what_belongs_to_a_rule_is_asked_for(rule):
    space = read(TWO_RULES)
    asked = []

    def choose(key, parameter):
        asked.append(key)
        return rule if key == "rule.name" else parameter.middle

    point = space.choose(choose)
    own = {"information": "rule.gamma", "mirror": "rule.input_distribution"}[rule]
    assert list(point) == asked == ["rule.name", "rule.alpha", own, "optimizer.lr"]
    run = parse_run(space.apply({"rule": "backprop", "epochs": 2}, point))
    assert (run.rule.name, run.rule.alpha, run.epochs) == (rule, point["rule.alpha"], 2)


def test_every_random_point_is_a_legal_run():
    space, generator = read(TWO_RULES), random.Random(1)
    points = [space.draw(generator) for _ in range(20)]
    assert {parse_run(space.apply({}, point)).rule.name for point in points} == {"information", "mirror"}


def test_what_a_condition_asks_of_comes_first_and_absence_is_passed_on():
    space = read(
        """\
rule: information
parameters:
  pretraining.lr: {min: 0.1, max: 1, when: {pretraining.steps: [10, 20]}}
  pretraining.steps: {values: [0, 10, 20], when: {rule.input_distribution: normal}}
  model.width: {values: [4, 8]}
  model.name: {values: [resnet8, mlp]}
  rule.input_distribution: {values: [null, normal]}
"""
    )
    assert list(space.parameters) == [
        "rule.input_distribution",
        "pretraining.steps",
        "pretraining.lr",
        "model.name",
        "model.width",
    ]
    without = space.choose(lambda key, parameter: parameter.examples[0])
    assert list(without) == ["rule.input_distribution", "model.name", "model.width"]
    zero = space.choose(lambda key, p: "normal" if key == "rule.input_distribution" else p.examples[0])
    assert list(zero) == ["rule.input_distribution", "pretraining.steps", "model.name", "model.width"]


def test_a_setting_of_one_rule_must_be_legal_for_each_rule_that_it_is_there_for():
    text = TWO_RULES.replace(", when: {rule.name: information}", "").replace(", when: {rule.name: mirror}", "")
    assert problems(text) == ["space.yaml:4: rule.gamma: unknown key under rule.name=mirror: say `when` it is there"]
    both = TWO_RULES.replace("when: {rule.name: information}", "when: {rule.name: [information, mirror]}")
    assert problems(both)[0].startswith("space.yaml:4: rule.gamma: unknown key")
    (found,) = problems(TWO_RULES.replace("value: normal", "value: [normal]"))
    assert found.startswith("space.yaml:5: rule.input_distribution: is ")
    assert found.endswith("(with rule.name=mirror)")


def test_an_option_must_be_legal_under_every_name_of_its_section():
    text = (
        "rule: mirror\nparameters:\n  schedule.gamma: {min: 0.1, max: 0.5}\n  schedule.name: {values: [cosine, step]}\n"
    )
    (found,) = problems(text)
    assert found == "space.yaml:3: schedule.gamma: unknown key under schedule.name=cosine: say `when` it is there"
    space = read(text.replace("max: 0.5}", "max: 0.5, when: {schedule.name: step}}"))
    assert parse_run(space.apply({}, {"schedule.name": "step", "schedule.gamma": 0.2})).schedule.gamma == 0.2


def test_an_unknown_rule_among_others_hides_nothing():
    found = problems(TWO_RULES.replace("information, mirror]", "information, miror]").replace("max: 0.3", "max: -1"))
    assert [line.partition(";")[0] for line in found if ": rule: " in line] == [
        "space.yaml:1: rule: unknown learning rule 'miror'"
    ]
    assert (
        "space.yaml:5: rule.input_distribution: when.rule.name is mirror, expected one of information, miror" in found
    )
    assert "space.yaml:6: optimizer.lr: min 0.01 is not below max -1" in found


def test_what_the_sweeps_run_asks_of_one_of_the_rules_is_checked():
    run = {"delay_epochs": 3.0}
    found = problems("rule: {values: [information, usf]}", run)
    assert found == [
        "space.yaml:1: rule: on this sweep delay_epochs is 3.0, but usf has nothing to train without the task"
        " (with rule.name=usf)"
    ]


@pytest.mark.parametrize(
    "rule", ["{values: []}", "{values: [mirror, mirror]}", "{values: [mirror, 3]}", "{name: mirror}"]
)
def test_refuses_rules(rule):
    (found,) = problems(f"rule: {rule}\nparameters: {{epochs: {{min: 1, max: 2}}}}")
    assert found.startswith("space.yaml:1: rule: is {'")
    assert "expected the name of a learning rule or {values: [name, …]} with each name once" in found


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{min: 1, max: 2, when: 3}", "when is 3, expected a mapping of other parameters"),
        ("{min: 1, max: 2, when: {}}", "when is {}, expected a mapping of other parameters"),
        ("{min: 1, max: 2, when: {optimizer.lr: []}}", "when.optimizer.lr is [], expected a value or a list"),
        ("{min: 1, max: 2, when: {epochs: 1}}", "when asks of the setting itself"),
        ("{min: 1, max: 2, when: {rule.name: mirror}}", "when asks of 'rule.name', but the space has one rule, say"),
        ("{min: 1, max: 2, when: {batch_sise: 8}}", "when asks of 'batch_sise', but the space does not search it; did"),
        ("{min: 1, max: 2, when: {seed: 0}}", "when asks of 'seed', but the space does not search it"),
        ("{min: 1, max: 2, when: {batch_size: 12}}", "when.batch_size is 12, expected one of 8, 16"),
        ("{min: 1, max: 2, when: {batch_size: [8, true]}}", "when.batch_size is True, expected one of 8, 16"),
        ("{min: 1, max: 2, when: {optimizer.lr: 0.2}}", "when.optimizer.lr is 0.2, but optimizer.lr is a range"),
    ],
)
def test_refuses_conditions(entry, message):
    text = f"""\
rule: mirror
parameters:
  epochs: {entry}
  batch_size: {{values: [8, 16]}}
  optimizer.lr: {{min: 0.1, max: 0.3}}
  seed: {{value: 0}}
"""
    (found,) = problems(text)
    assert found.startswith(f"space.yaml:3: epochs: {message}")


def test_conditions_in_a_circle_are_refused():
    text = """\
rule: mirror
parameters:
  epochs: {values: [1, 2], when: {batch_size: 8}}
  batch_size: {values: [8, 16], when: {seed: 0}}
  seed: {values: [0, 1], when: {epochs: 1}}
"""
    assert problems(text) == [
        "space.yaml:3: epochs: its conditions go in a circle: epochs → batch_size → seed → epochs"
    ]


TIED = """\
rule: information
parameters:
  rule.alpha: {min: 1e-4, max: 1e-1, log: true}
  rule.beta: {tie: rule.alpha}
  rule.gamma: {tie: rule.alpha, factor: 0.5}
"""


def test_ties_follow():
    space = read(TIED)
    assert list(space.parameters) == ["rule.alpha"]
    assert list(space.ties) == ["rule.beta", "rule.gamma"]
    assert space.apply({}, {"rule.alpha": 0.01})["rule"] == {
        "name": "information",
        "alpha": 0.01,
        "beta": 0.01,
        "gamma": 0.005,
    }


def test_a_tie_is_there_when_the_other_key_is_and_when_its_condition_holds():
    text = """\
rule: {values: [information, mirror]}
parameters:
  rule.alpha: {min: 1e-4, max: 1e-1}
  rule.gamma: {tie: rule.alpha, when: {rule.name: information}}
  optimizer.lr: {value: 0.1}
  alignment_optimizer.lr: {tie: optimizer.lr, factor: 2}
"""
    space = read(text)
    content = space.apply({"alignment_optimizer": "sgd"}, {"rule.name": "mirror", "rule.alpha": 0.1})
    assert content["rule"] == {"name": "mirror", "alpha": 0.1}
    assert content["alignment_optimizer"] == {"name": "sgd", "lr": 0.2}
    assert space.apply({}, {"rule.name": "information", "rule.alpha": 0.1})["rule"]["gamma"] == 0.1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "{tie: rule.alpah}",
            "is tied to 'rule.alpah', which the space neither searches nor fixes; did you mean 'rule.al",
        ),
        ("{tie: rule.beta}", "is tied to itself"),
        ("{tie: rule.gamma}", "is tied to 'rule.gamma', which is itself tied"),
        ("{tie: 3}", "tie is 3, expected the key of another setting"),
        ("{tie: rule.alpha, factor: 0}", "factor is 0, expected a number other than 0"),
        ("{tie: rule.alpha, factor: x}", "factor is 'x', expected a number other than 0"),
        ("{tie: rule.alpha, fctor: 2}", "has the keys ['fctor', 'tie'], expected "),
        (
            "{tie: rule.input_distribution, factor: 2}",
            "has a factor, but 'rule.input_distribution' is not always a num",
        ),
        ("{tie: rule.input_distribution}", "is None: input should be a valid number"),
        ("{tie: rule.alpha, factor: .inf}", "factor is inf, expected a number other than 0"),
    ],
)
def test_refuses_ties(entry, message):
    found = problems(TIED.replace("{tie: rule.alpha}", entry) + "  rule.input_distribution: {values: [null, normal]}\n")
    assert any(line.startswith("space.yaml:4: rule.beta: ") and message in line for line in found)


def test_lists_among_the_values_are_tuples_in_points_and_lists_in_runs():
    space = read(
        "rule: mirror\nparameters:\n  rates.drops: {values: [[1, 2.5], []]}\nenqueue: [{rates.drops: [1, 2.5]}]"
    )
    assert space.parameters["rates.drops"] == Choice(values=((1, 2.5), ()))
    assert space.enqueued == ({"rates.drops": (1, 2.5)},)
    assert format_point(space.enqueued[0]) == "rates.drops=[1, 2.5]"
    assert parse_run(space.apply({}, space.enqueued[0])).rates.drops == [1, 2.5]
    assert problems("rule: mirror\nparameters:\n  seed: {values: [1, 1]}") == ["space.yaml:3: seed: values has 1 twice"]


def test_whole_numbers_are_found_under_conditions():
    text = TWO_RULES.replace("rule.gamma: {min: 1e-4, max: 1e-1, log: true", "epochs: {min: 1, max: 9")
    space = read(text)
    assert space.parameters["epochs"] == Range(min=1, max=9, integer=True, when={"rule.name": ("information",)})
