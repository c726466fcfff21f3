"""The configuration of a sweep, and the names that it may have."""

from pathlib import Path

import pytest

from aln.config import check_name, parse_document, parse_sweep, read_document
from aln.errors import ConfigError

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))


def messages(text: str) -> list[str]:
    with pytest.raises(ConfigError, match=r"^s\.yaml") as caught:
        parse_sweep(parse_document(text, "s.yaml"))
    return [str(problem) for problem in caught.value.problems]


def test_there_are_sweeps():
    assert "digits" in [path.stem for path in SWEEPS]


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
sampler: {name: grid}
scheduler: {reduction: 1}
baselines: [backprop, backprop]
"""
    expected = [
        "s.yaml:2: run.epohs: unknown key; did you mean 'run.epochs'?",
        "s.yaml:3: run.optimizer.lrr: unknown key; did you mean 'run.optimizer.lr'?",
        "s.yaml:4: run.batch_size: is 0: input should be greater than or equal to 1",
        "s.yaml:5: trails: unknown key; did you mean 'trials'?",
        "s.yaml:6: sampler.name: is 'grid': input should be 'tpe' or 'random'",
        "s.yaml:7: scheduler.reduction: is 1: input should be greater than 1",
        "s.yaml:8: baselines: is ['backprop', 'backprop']: value error, expected each baseline once",
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
        ("mode: up", "mode: is 'up': input should be 'max' or 'min'"),
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
    ("metric", "mode"),
    [("val_top1", "min"), ("val_top5", "min"), ("val_loss", "max"), ("test_top1", "max"), ("accuracy", "max")],
)
def test_metric_and_mode_must_agree(metric, mode):
    (found,) = messages(f"metric: {metric}\nmode: {mode}\n")
    if metric in ("test_top1", "accuracy"):
        assert found.startswith(
            f"s.yaml:1: metric: is '{metric}': input should be 'val_top1', 'val_top5' or 'val_loss'"
        )
    else:
        right = {"max": "min", "min": "max"}[mode]
        assert found.startswith(f"s.yaml:2: mode: is '{mode}'")
        assert f"expected {right} for {metric}" in found


@pytest.mark.parametrize(("metric", "mode"), [("val_top1", "max"), ("val_top5", "max"), ("val_loss", "min")])
def test_metrics(metric, mode):
    sweep, _ = parse_sweep(parse_document(f"metric: {metric}\nmode: {mode}\n"))
    assert (sweep.metric, sweep.mode) == (metric, mode)


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


def test_trials_of_many_workers_are_refused():
    document = parse_document("run:\n  resources: {workers: 2}\n", "s.yaml")
    with pytest.raises(
        ConfigError, match=r"s\.yaml:2: run\.resources\.workers: is 2, expected 1: a sweep's trials have"
    ):
        parse_sweep(document)


def test_trials_on_a_gpu_that_nobody_asks_ray_for_are_refused():
    document = parse_document("run:\n  compute: {device: cuda}\n", "s.yaml")
    with pytest.raises(ConfigError, match=r"run\.resources\.gpus: is 0\.0, expected more: compute\.device is 'cuda'"):
        parse_sweep(document)
