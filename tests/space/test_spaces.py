"""Search spaces: those of the repository, every kind of mistake, and what a point puts into the run."""

import copy
import dataclasses

import pytest

from aln.config import parse_document, parse_run, parse_sweep, read_document
from aln.errors import ConfigError
from aln.rules import RULES, RegularizedRule
from aln.space import Choice, Range, SearchSpace, format_point, format_value, parse_space
from shipped import SPACES, SWEEPS

OPTIONS = {field.name for field in dataclasses.fields(RegularizedRule)}
COEFFICIENTS = {
    name: {f"rule.{f.name}" for f in dataclasses.fields(rule) if isinstance(f.default, float) and f.name not in OPTIONS}
    for name, rule in RULES.items()
}


def parse(parameters: str, rule: str = "information", run: dict | None = None) -> SearchSpace:
    lines = "".join(f"  {line}\n" for line in parameters.splitlines())
    return parse_space(parse_document(f"rule: {rule}\nparameters:\n{lines}", "space.yaml"), run or {})


def messages(parameters: str, **options) -> list[str]:
    with pytest.raises(ConfigError, match=r"^space\.yaml") as caught:
        parse(parameters, **options)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("space", SPACES, ids=lambda path: path.stem)
@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.stem)
def test_every_space_goes_with_every_sweep(space, sweep):
    run = parse_sweep(read_document(sweep))[0].run
    parsed = parse_space(read_document(space), run)
    assert parsed.name == space.stem
    corners = ({key: p.examples[end] for key, p in parsed.parameters.items()} for end in (0, -1))
    assert [parse_run(parsed.apply(run, corner)).rule.name for corner in corners] == [parsed.rule] * 2


def test_every_rule_has_a_space_but_those_with_nothing_to_search():
    assert set(RULES) - {path.stem for path in SPACES} == {"backprop", "feedback"}


@pytest.mark.parametrize("space", SPACES, ids=lambda path: path.stem)
def test_a_space_searches_all_its_rules_coefficients(space):
    parsed = parse_space(read_document(space), {})
    searched = {
        key for key in parsed.parameters if key.startswith("rule.") and isinstance(parsed.parameters[key], Range)
    }
    assert searched == COEFFICIENTS[parsed.rule]


BROKEN = """\
rule: information
rules: mirror
parameters:
  rule.alpah: {min: 1e-5, max: 1e-1}
  rule.alpha: {min: 1e-1, max: 1e-5}
  rule.beta: {min: 0.0, max: 1.0, log: true}
  rule.gamma: {min: a, max: 1.0}
  rule.input_distribution: {values: []}
  rule.input_stddev: 3
  epochs: {min: 1, max: 3, log: 1}
  batch_size: {min: 8, max: 64, step: 0}
  seed: {min: 0}
  label_smoothing: {values: [0.0, 1.0]}
  model.width: {value: wide}
  schedule.name: {values: [cosine, cosinus]}
"""
EXPECTED = """\
2: rules: unknown key; a search space has `rule`, `parameters`, `constraints` and `enqueue`
4: rule.alpah: unknown key; did you mean 'rule.alpha'?
5: rule.alpha: min 0.1 is not below max 1e-05
6: rule.beta: min is 0.0, expected a number above 0 on a logarithmic scale
7: rule.gamma: min is 'a', expected a number
8: rule.input_distribution: values is [], expected a list that is not empty
9: rule.input_stddev: is 3, expected {min, max[, log][, step]}, {values: […]}, {value: …} or {tie: …}
10: epochs: log is 1, expected true or false
11: batch_size: step is 0, expected a number above 0, and none on a logarithmic scale
12: seed: has the keys ['min'], expected {min, max[, log][, step]}, {values: […]}, {value: …} or {tie: …}
13: label_smoothing: is 1.0: input should be less than 1
14: model.width: is 'wide': input should be a valid integer
15: schedule.name: unknown schedule 'cosinus'; did you mean 'cosine'? (known: constant, cosine, step)"""


def test_every_kind_of_mistake_at_once():
    with pytest.raises(ConfigError, match=r"^space\.yaml") as caught:
        parse_space(parse_document(BROKEN, "space.yaml"), {})
    found = {str(problem).removeprefix("space.yaml:") for problem in caught.value.problems}
    assert found == set(EXPECTED.splitlines())
    assert len(caught.value.problems) == len(found)


def test_an_unknown_key_is_found_though_its_entry_is_wrong_too():
    assert messages("rule.alhpa: {min: 1, max: 0}") == [
        "space.yaml:3: rule.alhpa: min 1 is not below max 0",
        "space.yaml:3: rule.alhpa: unknown key; did you mean 'rule.alpha'?",
    ]


def test_an_unknown_rule_does_not_hide_what_is_wrong_elsewhere():
    found = messages("optimizer.lr: {values: [0.1, abc]}", rule="informatin")
    assert found[0].startswith("space.yaml:1: rule: unknown learning rule 'informatin'; did you mean 'information'?")
    assert found[1:] == ["space.yaml:3: optimizer.lr: is 'abc': input should be a valid number"]


def test_a_sweep_in_place_of_a_space_is_recognised():
    with pytest.raises(ConfigError, match=r"^sweep\.yaml:1: run: this is a sweep, not a search space: .* --sweep$"):
        parse_space(parse_document("run: {epochs: 2}\ntrials: 3", "sweep.yaml"), {})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{min: 1, max: 1}", "min 1 is not below max 1"),
        ("{min: .nan, max: 1}", "min nan is not below max 1"),
        ("{min: true, max: 3}", "min is True, expected a number"),
        ("{min: 0.1, max: '1'}", "max is '1', expected a number"),
        ("{min: 0.1, max: .inf}", "is inf: input should be a finite number"),
        ("{min: 0.1, max: 1.0, log: true, step: 0.1}", "step is 0.1, expected a number above 0, and none on a log"),
        ("{min: 0.1, max: 1.0, lgo: true}", "has the keys ['lgo', 'max', 'min'], expected {min, max"),
        ("{value: 1, values: [1]}", "has the keys ['value', 'values'], expected {min, max"),
        ("{values: 3}", "values is 3, expected a list that is not empty"),
        ("{}", "has the keys [], expected {min, max"),
        ("[1, 2]", "is [1, 2], expected {min, max"),
        ("{values: [0.1, x]}", "is 'x': input should be a valid number"),
        ("{value: true}", "is True: input should be a valid number"),
    ],
)
def test_refuses_an_entry(entry, message):
    (found,) = messages(f"rule.alpha: {entry}")
    assert found.startswith(f"space.yaml:3: rule.alpha: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters: {rule.alpha: {value: 1}}", "space.yaml: rule: is None, expected the name of a learning rule"),
        ("rule: [mirror]\nparameters: {epochs: {value: 1}}", "space.yaml:1: rule: is ['mirror'], expected the name"),
        ("rule: mirror", "space.yaml: parameters: is None, expected a mapping of settings"),
        ("rule: mirror\nparameters: {}", "space.yaml:2: parameters: is {}, expected a mapping of settings"),
        ("rule: mirror\nparameters: [1]", "space.yaml:2: parameters: is [1], expected a mapping of settings"),
        ("rule: miror\nparameters: {epochs: {value: 1}}", "space.yaml:1: rule: unknown learning rule 'miror'; did you"),
    ],
)
def test_refuses_a_space(text, message):
    with pytest.raises(ConfigError, match=r"^space\.yaml") as caught:
        parse_space(parse_document(text, "space.yaml"), {})
    assert any(str(problem).startswith(message) for problem in caught.value.problems)


@pytest.mark.parametrize(
    "entry",
    [
        "rule.input_stddev: {min: 0.0, max: 1.0}",
        "optimizer.lr: {min: 0.0, max: 1.0}",
        "optimizer.momentum: {min: 0.5, max: 1.0}",
        "schedule.warmup_epochs: {values: [0.0, -1.0]}",
    ],
)
def test_both_ends_must_be_legal_for_what_the_section_names(entry):
    (found,) = messages(entry)
    assert found.startswith(f"space.yaml:3: {entry.partition(':')[0]}: ")
    assert "expected a number" in found


@pytest.mark.parametrize(
    "entry",
    [
        "model: {values: [resnet8, nope]}",
        "schedule: {value: nope}",
        "epochs.x: {min: 1, max: 2}",
        "a..b: {value: 1}",
    ],
)
def test_what_no_run_would_take_is_refused(entry):
    (found,) = messages(entry)
    assert found.startswith(f"space.yaml:3: {entry.partition(':')[0]}: ")


@pytest.mark.parametrize(
    ("entry", "expected", "integer"),
    [
        ("rule.alpha: {min: 1e-5, max: 1, log: true}", Range(min=1e-5, max=1, log=True), False),
        ("rule.alpha: {min: 0.0, max: 1.0, step: 0.25}", Range(min=0.0, max=1.0, step=0.25), False),
        ("epochs: {min: 1, max: 9}", Range(min=1, max=9, integer=True), True),
        ("batch_size: {min: 16, max: 128, log: true}", Range(min=16, max=128, log=True, integer=True), True),
        ("model.width: {min: 8, max: 32, step: 8}", Range(min=8, max=32, step=8, integer=True), True),
    ],
)
def test_ranges(entry, expected, integer):
    space = parse(entry)
    assert space.parameters == {entry.partition(":")[0]: expected}
    assert next(iter(space.parameters.values())).integer is integer
    assert space.fixed == {}


def test_a_range_of_a_setting_that_is_no_whole_number_is_none_either():
    space = parse("rule.alpha: {min: 0, max: 1}")
    assert space.parameters["rule.alpha"].integer is False


def test_whole_numbers_go_in_whole_steps():
    (found,) = messages("epochs: {min: 1, max: 9, step: 0.5}")
    assert found.startswith("space.yaml:3: epochs: ")


def test_choices_and_fixed_values():
    space = parse("rule.input_distribution: {values: [null, normal]}\noptimizer.lr: {value: 0.05}\n")
    assert space.parameters == {"rule.input_distribution": Choice(values=(None, "normal"))}
    assert space.fixed == {"optimizer.lr": 0.05}
    assert space.name == "space"


def test_a_fixed_value_may_be_null():
    assert parse("rule.input_distribution: {value: null}").fixed == {"rule.input_distribution": None}


def test_apply_puts_the_point_into_the_run_and_leaves_its_inputs_alone():
    space = parse("rule.alpha: {min: 1e-5, max: 1.0}\nrule.beta: {value: 0.5}\noptimizer.lr: {min: 0.01, max: 1.0}\n")
    run = {"rule": {"name": "mirror", "alpha": 9.0}, "optimizer": {"momentum": 0.5}, "model": "mlp", "epochs": 2}
    point = {"rule.alpha": 0.25, "optimizer.lr": 0.1, "model.width": 8}
    before = copy.deepcopy((run, point))
    assert space.apply(run, point) == {
        "rule": {"name": "information", "alpha": 0.25, "beta": 0.5},
        "optimizer": {"momentum": 0.5, "lr": 0.1},
        "model": {"name": "mlp", "width": 8},
        "epochs": 2,
    }
    assert (run, point) == before


def test_a_point_goes_before_a_fixed_value():
    space = parse("rule.alpha: {value: 0.5}")
    assert space.apply({}, {"rule.alpha": 0.1})["rule"]["alpha"] == 0.1


@pytest.mark.parametrize("keys", [("model.name", "model.width"), ("model.width", "model.name")])
def test_a_point_means_the_same_in_any_order(keys):
    space = parse("model.name: {values: [resnet8, resnet20]}\nmodel.width: {values: [4, 8]}\n")
    values = {"model.name": "resnet20", "model.width": 8}
    assert space.apply({}, {key: values[key] for key in keys})["model"] == {"name": "resnet20", "width": 8}


def test_parsing_leaves_the_run_alone():
    run = {"optimizer": {"lr": 0.2}}
    parse("optimizer.lr: {min: 0.1, max: 1.0}", run=run)
    assert run == {"optimizer": {"lr": 0.2}}


@pytest.mark.parametrize(
    ("value", "text"), [(0.123456, "0.123"), (1e-5, "1e-05"), (None, "null"), (3, "3"), ("normal", "normal")]
)
def test_format_value(value, text):
    assert format_value(value) == text


def test_format_point():
    assert format_point({"rule.alpha": 0.25, "rule.input_distribution": None}) == (
        "rule.alpha=0.25 rule.input_distribution=null"
    )


@pytest.mark.parametrize(
    ("parameter", "middle"),
    [
        (Range(min=1e-4, max=1e-2, log=True), 1e-3),
        (Range(min=0.0, max=1.0), 0.5),
        (Range(min=0.0, max=1.0, step=0.2), 0.4),
        (Range(min=1, max=8, integer=True), 4),
        (Range(min=1, max=64, log=True, integer=True), 8),
        (Choice(values=(None, "normal", "uniform")), "normal"),
    ],
)
def test_the_middle_of_a_parameter(parameter: Range | Choice, middle: object) -> None:
    assert parameter.middle == (pytest.approx(middle) if isinstance(middle, float) else middle)


def test_what_a_sweeps_run_asks_of_the_spaces_rule_is_checked():
    run = {"delay_epochs": 3.0, "coefficients": {"gamma": {"stop": 0.5}}, "alignment_optimizer": "adam"}
    assert parse("rule.alpha: {min: 0, max: 1}", run=run).rule == "information"
    found = messages("rule.alpha: {min: 0, max: 1}", rule="mirror", run=run)
    assert len(found) == 1
    assert found[0].startswith("space.yaml:1: rule: on this sweep coefficients.gamma gamma is no coefficient of Weight")
    found = messages("optimizer.lr: {min: 0.1, max: 1}", rule="usf", run={"delay_epochs": 3.0})
    assert found == [
        "space.yaml:1: rule: on this sweep delay_epochs is 3.0, but usf has nothing to train without the task"
    ]


def test_the_recipe_of_alignment_can_be_searched():
    space = parse("coefficients.alpha.rate: {min: -0.1, max: 0.1}\nalignment_optimizer.name: {values: [adam, radam]}")
    run = parse_run(space.apply({}, {"coefficients.alpha.rate": 0.05, "alignment_optimizer.name": "radam"}))
    assert run.coefficients["alpha"].rate == 0.05
    assert run.alignment_optimizer.name == "radam"
