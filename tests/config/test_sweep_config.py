"""The configuration of a sweep, and the names that it may have."""

import pytest

from aln.config import Document, check_name, parse_document, parse_sweep, read_document, sound_part
from aln.errors import ConfigError
from shipped import SWEEPS


def messages(text: str) -> list[str]:
    with pytest.raises(ConfigError, match=r"^s\.yaml") as caught:
        parse_sweep(parse_document(text, "s.yaml"))
    return [str(problem) for problem in caught.value.problems]


def test_there_are_sweeps():
    assert [path.stem for path in SWEEPS] == ["digits", "imagenet_resnet18"]


def test_a_study_is_told_apart_from_a_sweep():
    assert messages("stages: {}") == ["s.yaml:1: stages: this is a study, not a sweep: run it by python -m aln.study"]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_parses(path):
    document = read_document(path)
    sweep, run = parse_sweep(document)
    assert sweep.run == document.content["run"]
    assert run.epochs == sweep.run["epochs"]
    assert {"backprop", "feedback"} <= set(sweep.baselines)


def test_defaults():
    sweep, run = parse_sweep(parse_document(""))
    assert (sweep.run, sweep.metric, sweep.mode, sweep.max_concurrent) == ({}, "val_top1", "max", None)
    assert (sweep.sampler.name, sweep.scheduler.name) == ("tpe", "asha")
    assert sweep.baselines == ["backprop", "feedback"]
    assert (run.rule.name, run.data.name) == ("backprop", "digits")


def test_all_errors_at_once_under_the_sweeps_own_keys():
    text = """\
run:
  epohs: 3
  optimizer: {lrr: 3}
  batch_size: 0
trails: 3
sampler: {name: grids}
scheduler: {reduction: 1}
baselines: [backprop, backprop]
"""
    expected = [
        "s.yaml:2: run.epohs: unknown key; did you mean 'run.epochs'?",
        "s.yaml:3: run.optimizer.lrr: unknown key; did you mean 'run.optimizer.lr'?",
        "s.yaml:4: run.batch_size: is 0: input should be greater than or equal to 1",
        "s.yaml:5: trails: unknown key; did you mean 'trials'?",
        "s.yaml:6: sampler.name: is 'grids': input should be 'tpe', 'random', 'grid', 'cmaes', 'gp' or 'qmc'",
        "s.yaml:7: scheduler.reduction: is 1: input should be greater than or equal to 2",
        "s.yaml:8: baselines: is ['backprop', 'backprop']: expected each name once",
    ]
    assert sorted(messages(text)) == expected


def test_a_misspelt_name_in_the_run_is_met_with_the_name():
    (found,) = messages("run: {model: rsnet8}\n")
    assert found.startswith("s.yaml:1: run.model.name: unknown model 'rsnet8'; did you mean 'resnet8'? (known: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: 3", "run: is 3: input should be a valid dictionary"),
        ("run:", "run: is None: input should be a valid dictionary"),
        ("trials: 0", "trials: is 0: input should be greater than or equal to 1"),
        ("trials: true", "trials: is True: input should be a valid integer"),
        ("mode: up", "mode: is now part of the objective: write `objective: val_top1 up`"),
        ("metric: val_loss", "metric: is now part of the objective: write `objective: val_loss`"),
        ("objective: val_top1 min", "objective: is 'val_top1 min': expected 'val_top1 max'"),
        ("objective: val_loss max", "objective: is 'val_loss max': expected 'val_loss min'"),
        (
            "objective: val_tpo1",
            "objective: is 'val_tpo1': unknown metric 'val_tpo1'; did you mean 'val_top1'? (",
        ),
        ("objective: test_top1 max", "objective: is 'test_top1 max': unknown metric 'test_top1'; did you mean "),
        ("objective: val_top1 up", "objective: is 'val_top1 up': expected 'val_top1 max'"),
        ("objective: 3", "objective: is 3: expected a metric, or a metric and max or min"),
        ("objective: a b c", "objective: is 'a b c': expected a metric, or a metric and max or min"),
        ("objective:", "objective: is None: expected a metric, or a metric and max or min"),
        ("objective: []", "objective: is []: expected a metric, or a list of metrics"),
        (
            "objective: [val_top1, val_top1 max]",
            "objective: is ['val_top1', 'val_top1 max']: expected each metric",
        ),
        ("objective: [val_top1, 3]", "objective: is 3: expected a metric, or a metric and"),
        ("objective: angle", "objective: is angle, measured every 10 epochs, but the scheduler compares trials at"),
        ("sampler: gird", "sampler.name: is 'gird': input should be 'tpe', 'random', 'grid'"),
        ("sampler: {seed: -1}", "sampler.seed: is -1: input should be greater than or equal to 0"),
        ("scheduler: asah", "scheduler.name: is 'asah': input should be 'asha', 'hyperband', 'median' or 'none'"),
        ("scheduler: 3", "scheduler: is 3: input should be a valid dictionary"),
        ("{scheduler: median, objective: [val_top1, val_loss]}", "scheduler: is 'median': expected none: which of sev"),
        (
            "{sampler: cmaes, objective: [val_top1, val_loss]}",
            "sampler: is 'cmaes': cmaes optimises one objective; t",
        ),
        ("seeds: 0", "seeds: is 0: input should be greater than or equal to 1"),
        ("seeds: 1.5", "seeds: is 1.5: input should be a valid integer"),
        ("warm_start: digits", "warm_start: is 'digits': input should be a valid list"),
        ("warm_start: [3]", "warm_start: is 3: input should be a valid string"),
        ("warm_start: [a, a]", "warm_start: is ['a', 'a']: expected each name once"),
        ("warm_start: [' ']", "warm_start: is [' ']: expected names of sweeps or experiments, and ' ' cannot be one"),
        ("budget: {hours: 0}", "budget.hours: is 0: input should be greater than 0"),
        ("budget: {gpu_hours: 3}", "budget.gpu_hours: is 3, but a trial takes no GPU (run.resources.gpus)"),
        ("budget: {gpu_hours: -1}", "budget.gpu_hours: is -1: input should be greater than 0"),
        ("budget: {minutes: 3}", "budget.minutes: unknown key"),
        ("budget: {target: x}", "budget.target: is 'x': input should be a valid number"),
        ("budget: {target: 9900}", "budget: is {'target': 9900}: target is 9900, expected percent, from 0 to 100"),
        ("{trials: 3, budget: {trials: 4}}", "budget: is {'trials': 4}: has trials, but the sweep itself has too (3)"),
        ("budget: {trials: 0}", "budget.trials: is 0: input should be greater than or equal to 1"),
        ("{budget: {target: 9}, objective: [val_top1, val_loss]}", "budget: is {'target': 9}: has a target, expected"),
        ("max_failures: -1", "max_failures: is -1: input should be greater than or equal to 0"),
        ("restarts: -1", "restarts: is -1: input should be greater than or equal to 0"),
        ("stall_timeout: 0", "stall_timeout: is 0: input should be greater than 0"),
        ("stall_timeout: .inf", "stall_timeout: is inf: input should be a finite number"),
        ("max_concurrent: 0", "max_concurrent: is 0: input should be greater than or equal to 1"),
        ("experiment: ''", "experiment: is '': string should have at least 1 character"),
        ("scheduler: {grace: 0}", "scheduler.grace: is 0: input should be greater than or equal to 1"),
        ("baselines: [bakprop]", "baselines: unknown learning rule 'bakprop'; did you mean 'backprop'?"),
        ("baselines: backprop", "baselines: is 'backprop': input should be a valid list"),
        ("epochs: 3", "epochs: unknown key; did you mean 'run.epochs'?"),
    ],
)
def test_refuses(text, message):
    (found,) = messages(text + "\n")
    assert found.startswith(f"s.yaml:1: {message}")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("val_top1", [("val_top1", "max")]),
        ("val_loss min", [("val_loss", "min")]),
        ("[val_top5]", [("val_top5", "max")]),
        ("[val_top1 max, train_seconds min]", [("val_top1", "max"), ("train_seconds", "min")]),
        ("{metric: train_loss, mode: min}", [("train_loss", "min")]),
    ],
)
def test_objectives(written, expected):
    sweep, _ = parse_sweep(parse_document(f"objective: {written}\n"))
    assert [(objective.metric, objective.mode) for objective in sweep.objectives] == expected
    assert (sweep.metric, sweep.mode) == expected[0]
    assert sweep.scheduler.name == ("asha" if len(expected) == 1 else "none")


def test_what_the_old_keys_have_become_is_said_for_both():
    assert messages("metric: val_loss\nmode: min\n") == [
        f"s.yaml:{line}: {key}: is now part of the objective: write `objective: val_loss min`"
        for line, key in ((1, "metric"), (2, "mode"))
    ]


def test_the_value_of_an_objective():
    metrics = {"val_top1": 90.0, "angle/a": 10.0, "angle/b": 20.0, "angles/c": 60.0}
    sweep, _ = parse_sweep(parse_document("objective: [val_top1, angle, gradient_angle]"))
    assert [objective.value(metrics) for objective in sweep.objectives] == [90.0, 15.0, None]


def test_an_angle_must_be_measured_when_it_is_compared():
    text = "run: {alignment: {every: EVERY}}\nobjective: gradient_angle\nscheduler: NAME\n"
    for every, name in (("1", "asha"), ("7", "none")):
        parse_sweep(parse_document(text.replace("EVERY", every).replace("NAME", name)))
    assert messages(text.replace("EVERY", "0").replace("NAME", "none")) == [
        "s.yaml:2: objective: is gradient_angle, but run.alignment.every is 0: it is never measured"
    ]


FULL = """run: {epochs: 3, seed: 4, resources: {gpus: 0.5}}
objective: val_top5
budget: {trials: 7, hours: 1.5, gpu_hours: 2, target: 99}
sampler: qmc
scheduler: {name: median, grace: 1, startup: 4}
seeds: 3
warm_start: [digits-1, other experiment]
baselines: []
max_concurrent: 2
max_failures: 0
restarts: 0
stall_timeout: 60
experiment: e
"""


@pytest.mark.parametrize(
    "text", ["", FULL, "trials: 5", "objective: [val_loss, train_seconds]\nsampler: {name: gp, seed: 3}"]
)
def test_a_sweep_is_read_again_from_what_it_writes(text):
    sweep, base = parse_sweep(parse_document(text))
    again, same = parse_sweep(parse_document(sweep.to_yaml()))
    assert again == sweep
    assert same == base
    assert again.to_yaml() == sweep.to_yaml()


def test_trials_of_the_budget_are_those_of_the_sweep():
    sweep, _ = parse_sweep(parse_document(FULL))
    assert (sweep.trials, sweep.budget.trials, sweep.budget.hours, sweep.budget.target) == (7, None, 1.5, 99)
    assert (sweep.sampler.name, sweep.scheduler.name, sweep.scheduler.startup) == ("qmc", "median", 4)


@pytest.mark.parametrize("name", ["a", "digits-1", "2024.01_x", "A" * 100, "a..b"])
def test_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["../x", "", "a/b", ".hidden", "a" * 101, "..", "-x", "_x", "a b", "a\\b", "a\n", "ä", "/etc", "a\0"]
)
def test_names_that_are_refused(name):
    with pytest.raises(ConfigError, match=r"--name: is .*expected up to 100 letters, digits"):
        check_name(name)


ALIGNING = """\
run:
  alignment_optimizer: {name: adam, lr: 1e-2}
  alternate_step_freq: 1
  coefficients: {alpha: {rate: 0.1}}
"""


def test_a_sweeps_run_may_say_how_alignment_is_trained_under_whatever_rule_comes():
    sweep, base = parse_sweep(parse_document(ALIGNING))
    assert sweep.run["alternate_step_freq"] == 1
    assert base.alignment_optimizer.name == "adam"
    assert messages(ALIGNING.replace("adam", "adm"))[0].startswith("s.yaml:2: run.alignment_optimizer.name: unknown")


def test_a_baseline_that_does_not_go_with_the_run_is_refused_before_anything_starts():
    assert messages("run: {noise: {variance: 1, part: backward}}\nbaselines: [symmetric, feedback]\n") == [
        "s.yaml:2: baselines: feedback: run.noise.part is backward, but feedback has no backward weight that learns"
    ]


def test_the_sound_part_of_a_faulty_run():
    run = {"epohs": 3, "batch_size": 0, "seed": 1, "model": {"name": "mlp", "wdth": 3}, "data": {"name": "x"}}
    with pytest.raises(ConfigError, match="epohs") as caught:
        parse_sweep(Document({"run": run}))
    assert sound_part(run, caught.value.problems) == {"seed": 1, "model": {"name": "mlp"}}
    assert sound_part(3, caught.value.problems) == {}


def test_trials_on_a_gpu_that_nobody_asks_ray_for_are_refused():
    document = parse_document("run:\n  compute: {device: cuda}\n", "s.yaml")
    with pytest.raises(ConfigError, match=r"run\.resources\.gpus: is 0\.0, expected more: compute\.device is 'cuda'"):
        parse_sweep(document)
