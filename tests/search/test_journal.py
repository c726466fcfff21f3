"""How much of a long study Optuna looks at, and what of it is kept."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from aln.search import journal
from aln.search.journal import Journal

FLOAT = optuna.distributions.FloatDistribution(0, 1)


@pytest.fixture
def short(monkeypatch):
    """A window of six of the newest and two of the best."""
    monkeypatch.setattr(journal, "_NEWEST", 6)
    monkeypatch.setattr(journal, "_BEST", 2)


def opened(tmp_path, directions=("maximize",)):
    storage = Journal(tmp_path / "study.log")
    study = optuna.create_study(storage=storage, study_name="mine", directions=directions, load_if_exists=True)
    return storage, study


def told(study, *values):
    for value in values:
        study.tell(study.ask({"x": FLOAT}), value)


def numbers(study, states=None):
    return [trial.number for trial in study.get_trials(deepcopy=False, states=states)]


def test_a_short_study_is_seen_whole(tmp_path, short):
    _, study = opened(tmp_path)
    told(study, 3, 1, 2, 5, 4)
    running = study.ask()
    study.enqueue_trial({"x": 0.5})
    assert numbers(study) == [0, 1, 2, 3, 4, 5, 6]
    assert numbers(study, [TrialState.RUNNING]) == [running.number]
    assert numbers(study, [TrialState.WAITING]) == [6]
    assert study.ask({"x": FLOAT}).params == {"x": 0.5}
    assert numbers(study, [TrialState.WAITING]) == []


@pytest.mark.parametrize(("direction", "best"), [("maximize", [1, 3]), ("minimize", [0, 2])])
def test_of_a_long_study_the_newest_and_the_best_are_seen(tmp_path, short, direction, best):
    storage, study = opened(tmp_path, [direction])
    told(study, -9, 90, -8, 80)
    study.tell(study.ask(), state=TrialState.PRUNED)
    running = study.ask()
    told(study, *range(10))
    newest = [10, 11, 12, 13, 14, 15]
    assert numbers(study) == [*best, running.number, *newest]
    assert numbers(study, [TrialState.COMPLETE]) == [*best, *newest]
    assert numbers(study, [TrialState.RUNNING]) == [running.number]
    assert study.best_value == (90 if direction == "maximize" else -9)
    assert [trial.number for trial in storage.every_trial(study._study_id)] == list(range(16))


def test_the_best_in_each_objective_are_seen(tmp_path, short):
    _, study = opened(tmp_path, ["maximize", "minimize"])
    told(study, (9, 9), (8, 8), (1, 1), (2, 2), *[(5, 5)] * 7)
    assert numbers(study) == [0, 1, 2, 3, *range(5, 11)]


def test_a_study_read_again_is_seen_as_before(tmp_path, short):
    _, study = opened(tmp_path)
    told(study, 50, *range(9))
    study.ask()
    seen = numbers(study)
    storage, again = opened(tmp_path)
    assert numbers(again) == seen == [0, 4, 5, 6, 7, 8, 9, 10]
    assert len(storage.every_trial(again._study_id)) == 11


def test_what_is_seen_of_one_study_is_not_of_another(tmp_path, short):
    storage, study = opened(tmp_path)
    other = optuna.create_study(storage=storage, study_name="other")
    told(study, 1, 2)
    told(other, 3)
    assert (numbers(study), numbers(other)) == ([0, 1], [0])


def test_a_line_cut_short_is_taken_away(tmp_path):
    _, study = opened(tmp_path)
    told(study, 1)
    path = tmp_path / "study.log"
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:-5])
    _, again = opened(tmp_path)
    assert numbers(again) == [0]
    assert path.read_bytes().startswith(whole)
    assert numbers(opened(tmp_path)[1]) == [0]


@pytest.mark.parametrize("torn", ['{"op_code": 4, "wor', '{"op_code": 4, "wor{"op_code": 8}\n'])
def test_a_line_that_was_not_written_to_its_end_goes(tmp_path: Path, torn: str) -> None:
    """Nor what was appended to it before the process ended."""
    path = tmp_path / "study.log"
    optuna.create_study(storage=journal.Journal(path), study_name="a")
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    storage = journal.Journal(path)
    assert path.read_bytes() == whole
    assert [study.study_name for study in storage.get_all_studies()] == ["a"]
