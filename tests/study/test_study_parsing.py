"""Reading a study: its sweeps, and every mistake of all its files at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aln.config import Document, dump, parse_document, read_document, with_settings
from aln.errors import ConfigError
from aln.study.parsing import parse_study
from aln.study.plan import StudyPlan
from shipped import STUDIES

BASE = """
run: {model: {name: mlp, width: 16}, data: synthetic, epochs: 4, optimizer: {name: sgd, lr: 0.05}}
baselines: [backprop]
scheduler: {grace: 2}
"""
MIRROR = """
rule: mirror
parameters:
  rule.alpha: {min: 1e-4, max: 1.0, log: true}
"""
STUDY = """
question: Does it?
base: base.yaml
sweep: {run: {epochs: 3}}
stages:
  search:
    space:
      - mirror.yaml
      - {name: any, rule: symmetric, parameters: {rule.beta: {values: [0.1, 0.2]}}}
    for_each: {run.batch_size: [32, 64]}
    sweep: {trials: 5, baselines: []}
  again:
    from: search
    top: 2
    for_each: {run.model: [resnet8, {name: mlp, depth: 1}]}
    sweep: {seeds: 3}
answer: {stage: again, measure: gap}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "mirror.yaml").write_text(MIRROR)
    return tmp_path


def read(folder: Path, text: str = STUDY, *settings: str) -> StudyPlan:
    return parse_study(with_settings(parse_document(text, str(folder / "study.yaml")), settings))


def problems(folder: Path, text: str, *settings: str) -> list[str]:
    with pytest.raises(ConfigError, match=r":") as caught:
        read(folder, text, *settings)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_a_stage_has_a_sweep_for_each_space_and_each_value(folder: Path) -> None:
    search, again = read(folder).stages
    assert [sweep.name for sweep in search.sweeps] == [
        "search-mirror-32", "search-mirror-64", "search-any-32", "search-any-64",
    ]  # fmt: skip
    assert [sweep.column for sweep in search.sweeps] == ["32", "64", "32", "64"]
    assert [sweep.name for sweep in again.sweeps] == ["again-resnet8", "again-mlp"]
    assert (again.source, again.top) == ("search", 2)


def test_what_is_said_later_lies_over_what_is_said_before(folder: Path) -> None:
    search, again = read(folder).stages
    first, last = search.sweeps[0], again.sweeps[1]
    assert (first.sweep.trials, first.sweep.baselines, first.sweep.scheduler.grace) == (5, [], 2)
    assert (first.base.epochs, first.base.batch_size, first.base.model.name) == (3, 32, "mlp")
    # A section of the same name keeps what it had, one of another name does not.
    assert last.base.model.options() == {"width": 16, "depth": 1}
    assert "width" not in again.sweeps[0].sweep.run["model"]


def test_points_of_another_stage_are_trained_to_their_end_and_tested(folder: Path) -> None:
    for sweep in read(folder).stages[1].sweeps:
        # Two of each of four sweeps.
        assert (sweep.sweep.trials, sweep.sweep.seeds, sweep.sweep.scheduler.name) == (8, 3, "none")
        assert (sweep.sweep.test, sweep.sweep.baselines) == ("all", ["backprop"])


def test_what_the_study_says_of_searching_does_not_stop_points_of_another_stage(folder: Path) -> None:
    of_all = ["sweep.scheduler=median", "sweep.trials=3", "sweep.budget={target: 50}"]
    for sweep in read(folder, STUDY, *of_all).stages[1].sweeps:
        assert (sweep.sweep.scheduler.name, sweep.sweep.trials, sweep.sweep.budget.target) == ("none", 8, None)


def test_settings_change_all_sweeps_or_those_of_a_stage(folder: Path) -> None:
    search, again = read(folder, STUDY, "sweep.run.epochs=7", "stages.search.sweep.trials=2").stages
    assert {sweep.base.epochs for sweep in (*search.sweeps, *again.sweeps)} == {7}
    assert {sweep.sweep.trials for sweep in search.sweeps} == {2}


def test_a_study_is_read_again_from_its_own_description_without_its_files(folder: Path, tmp_path: Path) -> None:
    study = read(folder)
    described = parse_document(dump(study.content), "elsewhere/study.yaml")
    for file in ("base.yaml", "mirror.yaml"):
        (tmp_path / file).unlink()
    again = parse_study(described)
    assert again.content == study.content
    for one, other in zip(study.stages, again.stages, strict=True):
        assert [(s.name, s.sweep, s.base, s.space) for s in one.sweeps] == [
            (s.name, s.sweep, s.base, s.space) for s in other.sweeps
        ]


def test_all_mistakes_of_all_files_are_told_at_once_each_with_its_line(folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE.replace("scheduler: {grace", "scheduler: {graze"))
    (folder / "mirror.yaml").write_text(MIRROR.replace("max: 1.0", "max: 1e-5"))
    text = STUDY.replace("epochs: 3", "epochz: 3").replace("trials: 5", "trials: 0").replace("resnet8", "resnet9")
    found = problems(folder, text.replace("run.batch_size", "run.batchsize"), "sweep.max_failures=-1")
    expected = [
        "--set: max_failures: is -1",
        "base.yaml:4: scheduler.graze: unknown key; did you mean 'scheduler.grace'",
        "mirror.yaml:4: rule.alpha: min 0.0001 is not below max 1e-05",
        "study.yaml:4: run.epochz: unknown key; did you mean 'run.epochs'",
        "study.yaml:10: run.batchsize: unknown key; did you mean 'run.batch_size'",
        "study.yaml:11: trials: is 0",
        "study.yaml:15: run.model.name: unknown model 'resnet9'; did you mean 'resnet8'",
    ]
    assert len(found) == len(expected)
    for beginning in expected:
        assert any(problem.startswith(beginning) for problem in found), (beginning, found)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("question: Does it?", "", "question: is required"),
        ("base: base.yaml", "base: nix.yaml", "nix.yaml: there is no such file"),
        ("from: search", "from: serch", "study.yaml:5: stages: .* again is from serch, expected an earlier stage"),
        ("from: search", "space: mirror.yaml", "study.yaml:12: stages.again: .* `top`, which belongs beside `from`"),
        ("    from: search\n", "", "study.yaml:12: stages.again: .* expected either `space` or `from`"),
        ("for_each: {run.model: [", "for_each: {run.model: [], run.seed: [", "expected values for run.model"),
        ("    top: 2", "    tip: 2", "study.yaml:14: stages.again.tip: unknown key; did you mean 'stages.again.top'"),
        ("stage: again", "stage: agin", "answer.stage is 'agin', expected one of search, again"),
        ("again, measure: gap", "search, measure: share, at_least: 9", "which asks search for `sampler: random`"),
        ("seeds: 3", "baselines: []", "answer.measure: is gap, but again has no baseline backprop"),
        ("seeds: 3", "storage: x", "stages.again.sweep.storage: a study has one storage"),
        ("measure: gap", "measure: share", "expected at_least beside `measure: share`, and there alone"),
        ("  again:", "  ../again:", "stages: .* a stage is '../again', expected up to 100 letters"),
        ("[32, 64]", "[32, 32]", "study.yaml:6: stages.search: gives two sweeps the name search-mirror-32"),
        ("rule: symmetric", "rule: mirror", "again.from: is search, which searches mirror over different spaces"),
    ],
    ids=lambda text: text.strip()[:24],
)  # fmt: skip
def test_a_mistake_is_told_with_what_was_expected(folder: Path, old: str, new: str, expected: str) -> None:
    assert old in STUDY
    found = problems(folder, STUDY.replace(old, new))
    assert any(re.search(expected, problem) for problem in found), found


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_study_that_comes_along_is_sound(path: Path) -> None:
    study = parse_study(read_document(path))
    assert study.content["base"]
    assert parse_study(Document(dict(study.content))).content == study.content


def test_a_sweep_is_told_apart_from_a_study(folder: Path) -> None:
    assert problems(folder, "run: {}") == [
        "study.yaml:1: run: this is a sweep, not a study: run it by python -m aln.sweep SPACE --sweep FILE"
    ]


def test_every_question_has_a_small_and_a_full_size_study() -> None:
    names = {path.parent.name: {p.name for p in STUDIES if p.parent == path.parent} for path in STUDIES}
    assert names["sweeps"] == names["imagenet"]
    assert len(names["sweeps"]) == 6
