"""The file in which a sweep's study is kept, and how much of it Optuna looks at."""

from __future__ import annotations

import copy
import json
from bisect import insort
from collections import deque
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

# Optuna's TPE models at most 25 of the best trials, and the others the less the older they are.
_BEST = 50
_NEWEST = 1000


class Journal(JournalStorage):
    """Optuna's journal, in a file that nobody else writes to.

    Optuna goes through all trials of a study several times for each suggestion, and when it asks whether one is to be
    stopped. So that trial 10,000 costs no more than trial 1,000, it is shown those that have not ended, the newest
    1,000 that have, and the 50 best in each objective. Up to 1,000 trials that is all of them; beyond, samplers that
    model the objective forget mediocre old ones, and early stopping compares with the newest. `every_trial` tells all.
    """

    def __init__(self, path: Path) -> None:
        _mend(path)
        self._file = JournalFileBackend(str(path), lock_obj=_Alone())  # type: ignore[arg-type]
        super().__init__(self._file)
        self._views: dict[int, _View] = {}
        self._study_of: dict[int, int] = {}
        for study in self.get_all_studies():
            self._views[study._study_id] = view = _View(study.directions)
            for trial in self.every_trial(study._study_id):
                self._study_of[trial._trial_id] = study._study_id
                view.take(trial)

    def every_trial(self, study_id: int) -> list[FrozenTrial]:
        """All trials of a study, in the order in which they began. They are not to be changed."""
        found: list[FrozenTrial] = super().get_all_trials(study_id, deepcopy=False)
        return found

    def attributes(self) -> Iterator[tuple[int, str, Any]]:
        """Every attribute that was ever set of a trial, in that order: trial, name, value. Optuna knows the last."""
        for entry in self._file.read_logs(0):
            if "trial_id" in entry:
                for name, value in entry.get("user_attr", {}).items():
                    yield entry["trial_id"], name, value

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        study_id: int = super().create_new_study(directions, study_name)
        self._views[study_id] = _View(directions)
        return study_id

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id: int = super().create_new_trial(study_id, template_trial)
        self._study_of[trial_id] = study_id
        self._views[study_id].take(self.get_trial(trial_id))
        return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        done: bool = super().set_trial_state_values(trial_id, state, values)
        self._views[self._study_of[trial_id]].take(self.get_trial(trial_id))
        return done

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        view = self._views[study_id]
        trials = [self.get_trial(trial_id) for trial_id in view.open]
        if states is None or any(state in states for state in TrialState if state.is_finished()):
            trials += view.ended()
        found = [trial for trial in trials if states is None or trial.state in states]
        found.sort(key=lambda trial: trial.number)
        return copy.deepcopy(found) if deepcopy else found


class _View:
    """Which trials of a study Optuna sees.

    Attributes:
        open: ids of those that have not ended, in the order in which they began.
    """

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self.open: dict[int, None] = {}
        self._signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
        self._newest: deque[FrozenTrial] = deque(maxlen=_NEWEST)
        self._best: list[list[tuple[float, int, FrozenTrial]]] = [[] for _ in directions]

    def take(self, trial: FrozenTrial) -> None:
        """A trial has begun or ended."""
        if not trial.state.is_finished():
            self.open[trial._trial_id] = None
            return
        self.open.pop(trial._trial_id, None)
        self._newest.append(trial)
        if trial.state == TrialState.COMPLETE:
            for sign, value, best in zip(self._signs, trial.values, self._best, strict=True):
                insort(best, (sign * value, trial.number, trial))
                del best[_BEST:]

    def ended(self) -> list[FrozenTrial]:
        """The newest and the best of those that have ended."""
        if len(self._newest) < _NEWEST:
            return list(self._newest)
        best = {trial.number: trial for place in self._best for _, _, trial in place}
        return list((best | {trial.number: trial for trial in self._newest}).values())


class _Alone:
    """Optuna's lock of the journal, for which there is no need: the sweep's folder has one. Optuna's own would stay
    behind a killed process and keep the next one waiting.
    """

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _mend(path: Path) -> None:
    """Takes away a last line that was not written to its end, onto which the next would be appended, or was."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        last = content[content.rfind(b"\n", 0, -1) + 1 :]
        try:
            json.loads(last or b"{}")
        except ValueError:
            content = content[: -len(last)]
        file.truncate(len(content))
