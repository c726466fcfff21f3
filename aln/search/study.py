"""The one truth of a sweep: its points, what was suggested, and what came of it, in `SWEEP/study.log`.

The file is Optuna's journal: what has been said there stays said, whatever is killed and when. Everything else
(MLflow, the screen, `trials.csv`, which training comes next) follows from it. Ray Tune's own snapshots are neither read
nor kept.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from aln.errors import SweepError
from aln.search.plan import SweepPlan
from aln.search.records import ENDED_BADLY, KnownTrial, Point, Status, TrialRecord
from aln.search.samplers import make_pruner, make_sampler
from aln.space import Parameter, Range, SearchSpace
from aln.space.parameters import frozen, thawed

STUDY = "study.log"  # the file's name in the folder of a sweep
BASELINES, SEARCHED = "baselines", "searched"  # the names of its two studies

# So many suggestions in a row that break a constraint, and there is nothing to be found.
_TRIES = 1000
# How much of its time a sweep may forget when it is killed.
_SPENT_SECONDS = 10.0


class Study:
    """The points of a sweep, as far as they are known. Nobody else may write to its file meanwhile.

    Attributes:
        points: in the order in which they began, by label.
        records: their trainings, by label.
        trained: seconds that all trainings took together.
        spent: seconds that the sweep has run, of all its processes.
    """

    def __init__(self, plan: SweepPlan) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.points: dict[str, Point] = {}
        self.records: dict[str, TrialRecord] = {}
        self._plan = plan
        self._objectives = plan.sweep.objectives
        self._waiting: deque[TrialRecord] = deque()
        self._handed_out: set[str] = set()
        self._ids: dict[str, int] = {}
        self._asked = self._failures = self._unfinished = 0
        self.trained, self._reached = 0.0, ""
        path = plan.folder / STUDY
        _mend(path)
        self._storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_Alone()))  # type: ignore[arg-type]
        self._baselines, self._searched = self._open(BASELINES), self._open(SEARCHED)
        for study in (self._baselines, self._searched):
            for trial in study.get_trials(deepcopy=False):
                self._recall(study, trial)
        self._spent, self._opened = float(self._searched.user_attrs.get("spent", 0.0)), time.monotonic()
        self._spent_noted = self._spent
        self._with_baselines = all(rule in self.points for rule in plan.sweep.baselines)
        # The generators of samplers begin anew in each process, but must not repeat themselves.
        self._searched.sampler = make_sampler(plan.sweep, begin=self._asked)
        self._pruner = make_pruner(plan.sweep, plan.base.epochs)
        if self._pruner is not None:  # samplers look whether it is Hyperband
            self._searched.pruner = self._pruner

    def _open(self, name: str) -> optuna.Study:
        known = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        directions = [known[objective.mode] for objective in self._objectives]
        return optuna.create_study(storage=self._storage, study_name=name, directions=directions, load_if_exists=True)

    @property
    def identity(self) -> str:
        """What tells this sweep from all others of its name."""
        if "identity" not in self._searched.user_attrs:
            self.note("identity", uuid.uuid4().hex)
        return str(self._searched.user_attrs["identity"])

    @property
    def spent(self) -> float:
        return self._spent + time.monotonic() - self._opened

    def notes(self) -> dict[str, Any]:
        """What was kept by `note`."""
        return dict(self._searched.user_attrs)

    def note(self, key: str, value: Any) -> None:
        """Keeps a value that JSON can hold."""
        self._searched.set_user_attr(key, value)

    def learn(self, known: Iterable[KnownTrial]) -> dict[str, int]:
        """Tells the sampler what was found elsewhere; returns how many trials of each source fit this space.

        They are no points of this sweep and count nowhere.
        """
        taken: Counter[str] = Counter()
        for trial in known:
            taken[trial.source] += 0
            values = [trial.metrics.get(objective.metric, math.nan) for objective in self._objectives]
            point = _fitted(self._plan.space, trial.values)
            if point is None or (trial.metrics and not all(map(math.isfinite, values))):
                continue
            parameters = {key: self._plan.space.parameters[key] for key in point}
            self._searched.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE if trial.metrics else TrialState.PRUNED,
                    values=values if trial.metrics else None,
                    params=_encoded(parameters, point),
                    distributions={key: distribution(parameter) for key, parameter in parameters.items()},
                    user_attrs={"source": trial.source},
                )
            )
            taken[trial.source] += 1
        return dict(taken)

    # What comes next

    def next(self) -> TrialRecord | None:
        """The training that is to begin or to go on now; None if none is, for now or for good (`exhausted`)."""
        if not self._waiting and not self._with_baselines:
            self._begin_baselines()
        if not self._waiting and self._asked < self._plan.sweep.trials:
            self._suggest()
        if not self._waiting:
            return None
        self._handed_out.add(self._waiting[0].label)
        return self._waiting.popleft()

    def again(self, record: TrialRecord) -> None:
        """A training that was to begin did not: it is next."""
        self._handed_out.discard(record.label)
        self._waiting.appendleft(record)

    @property
    def exhausted(self) -> bool:
        """Whether no training will begin any more: all points are there, and none that runs may be repeated."""
        asked = self._with_baselines and self._asked >= self._plan.sweep.trials
        return asked and not self._waiting and not (self._unfinished and self._plan.sweep.seeds > 1)

    @property
    def complete(self) -> bool:
        """Whether every point is there and has ended."""
        return self.exhausted and not self._unfinished

    def _begin_baselines(self) -> None:
        self._with_baselines = True
        for rule in self._plan.sweep.baselines:
            if rule not in self.points:
                trial = self._baselines.ask()
                self._waiting.extend(self._name(self._baselines, trial._trial_id, rule, {}))

    def _suggest(self) -> None:
        """Asks the sampler for a point that breaks no constraint, or takes the next one of those that are known."""
        space = self._plan.space
        known = self._plan.known_points()
        for _ in range(_TRIES):
            if self._asked < len(known):
                self._searched.enqueue_trial(_encoded(space.parameters, known[self._asked]))
            trial = self._searched.ask()
            point = space.choose(lambda key, parameter: _suggested(trial, key, parameter))  # noqa: B023
            if not space.violated(point):
                label = f"{self._asked:03d}"
                self._waiting.extend(self._name(self._searched, trial._trial_id, label, point)[:1])
                return
            self._searched.tell(trial, state=TrialState.FAIL)
        texts = ", ".join(constraint.text for constraint in space.constraints)
        raise SweepError(f"{_TRIES} points in a row broke a constraint of the space: {texts}")

    def _name(self, study: optuna.Study, trial: int, label: str, point: Mapping[str, Any]) -> list[TrialRecord]:
        """Makes a trial of Optuna a point of the sweep; without a label it never was one."""
        self._storage.set_trial_user_attr(trial, "point", thawed(point))
        self._storage.set_trial_user_attr(trial, "label", label)
        return self._add(label, point, trial, baseline=study is self._baselines).records

    def _add(self, label: str, values: Mapping[str, Any], trial: int, baseline: bool) -> Point:
        seeds = self._plan.sweep.seeds
        epochs = self._plan.epochs(values)
        records = [
            TrialRecord(
                label=label if seeds == 1 else f"{label}-s{repetition}", of=label, repetition=repetition, epochs=epochs
            )
            for repetition in range(seeds)
        ]
        point = Point(label=label, values=values, baseline=baseline, records=records)
        self.points[label], self._ids[label] = point, trial
        self.records |= {record.label: record for record in records}
        self._asked += not baseline
        self._unfinished += 1
        return point

    # What came of it

    def report(self, record: TrialRecord) -> bool:
        """Keeps the epoch that the record holds; says whether the training is to be stopped early."""
        trial, point = self._ids[record.of], self.points[record.of]
        self.trained += record.metrics.get("epoch_seconds", 0.0)
        pruner = None if point.baseline or record.repetition else self._pruner
        if pruner is not None:
            metric = self._objectives[0].metric
            value = math.nan if record.metrics.get("diverged") else record.metrics.get(metric, math.nan)
            self._storage.set_trial_intermediate_value(trial, record.epoch, value)
        # After the value: an epoch that the record holds is not reported again if the process dies between the two.
        self._keep(record)
        if self.spent > self._spent_noted + _SPENT_SECONDS:
            self._note_spent()
        if not point.baseline and point.status == "diverged":  # another of its trainings
            return True
        if pruner is None:
            return False
        if record.epoch >= record.epochs or record.metrics.get("diverged"):
            return False
        return pruner.prune(self._searched, self._storage.get_trial(trial))

    def end(self, record: TrialRecord, status: Status, error: str = "") -> None:
        """Keeps how a training ended. If it was its point's last, the sampler hears of the point."""
        record.status, record.error = status, error
        self._keep(record)
        point = self.points[record.of]
        if status == "completed" or point.baseline:
            first = record.repetition == 0 and not point.baseline
            self._waiting.extendleft(reversed(point.records[1:]) if first else ())
        else:  # more of the same is not worth training; what trains already says its own end
            self._forget(point, self._handed_out)
        if any(other.status == "running" for other in point.records):
            return
        self._tell(point)
        self._note_spent()

    def _forget(self, point: Point, but: Collection[str] = ()) -> None:
        """Gives up a point's trainings that have not ended, but for those with these labels."""
        for record in [r for r in point.records if r.status == "running" and r.label not in but]:
            point.records.remove(record)
            del self.records[record.label]
        self._waiting = deque(record for record in self._waiting if record.label in self.records)

    def _keep(self, record: TrialRecord) -> None:
        self._storage.set_trial_user_attr(self._ids[record.of], f"training{record.repetition}", record.plain())

    def _tell(self, point: Point) -> None:
        """Tells Optuna how a point ended.

        A diverged one counts as pruned, at a value that is not a number: worse than whatever was pruned at the same
        epoch, where a failed one would be forgotten.
        """
        study = self._baselines if point.baseline else self._searched
        trial = self._storage.get_trial(self._ids[point.label])
        values, status = point.objectives(self._objectives), point.status
        if status == "completed" and values is not None:
            study.tell(trial.number, values)
        elif status in ("stopped", "diverged", "completed") and len(self._objectives) == 1:
            study.tell(trial.number, state=TrialState.PRUNED)
        else:
            study.tell(trial.number, state=TrialState.FAIL)
        self._finished(point)

    def _finished(self, point: Point) -> None:
        """Counts a point whose trainings have all ended."""
        self._unfinished -= 1
        if point.baseline:
            return
        self._failures += point.status in ENDED_BADLY
        target, value = self._plan.sweep.budget.target, point.mean(self._objectives[0].metric)
        if target is not None and point.status == "completed" and value is not None:
            sign = 1 if self._objectives[0].mode == "max" else -1
            if sign * value >= sign * target:
                self._reached = point.label

    def over(self) -> str:
        """Which budget is spent, in words; nothing while none is."""
        budget = self._plan.sweep.budget
        if budget.hours is not None and self.spent >= 3600 * budget.hours:
            return f"the budget of {budget.hours:g} hours is spent"
        resources = self._plan.base.resources
        gpu_hours = self.trained * resources.gpus * resources.workers / 3600
        if budget.gpu_hours is not None and gpu_hours >= budget.gpu_hours:
            return f"the budget of {budget.gpu_hours:g} GPU-hours is spent"
        if self._reached:
            return f"{self._objectives[0].metric} {budget.target:g} is reached by trial {self._reached}"
        allowed = self._plan.sweep.max_failures
        if allowed is not None and self._failures > allowed:
            return f"{self._failures} trials failed, more than max_failures = {allowed}"
        return ""

    def close(self) -> None:
        """Keeps how long the sweep has run."""
        self._note_spent()

    def _note_spent(self) -> None:
        self._spent_noted = self.spent
        self.note("spent", self._spent_noted)

    def _recall(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """A point that an earlier process began."""
        label = trial.user_attrs.get("label")
        if label is None:
            if not trial.state.is_finished():  # its process died while it was being suggested
                study.tell(trial.number, state=TrialState.FAIL)
            return
        point = self._add(label, frozen(trial.user_attrs["point"]), trial._trial_id, baseline=study is self._baselines)
        for record in point.records:
            kept = trial.user_attrs.get(f"training{record.repetition}", {})
            record.status, record.metrics = kept.get("status", "running"), kept.get("metrics", {})
            record.error, record.restarts = kept.get("error", ""), kept.get("restarts", 0)
            self.trained += record.metrics.get("train_seconds", 0.0)
        if trial.state.is_finished():
            self._forget(point)
            self._finished(point)
            return
        first = point.records[0]
        if point.status != "running":  # its process died between the two
            self._forget(point)
            self._tell(point)
        elif point.baseline or first.status != "running":
            self._waiting.extend(record for record in point.records if record.status == "running")
        else:
            self._waiting.append(first)


def _suggested(trial: optuna.Trial, key: str, parameter: Parameter) -> Any:
    """The sampler's choice."""
    if not isinstance(parameter, Range):
        choices = _choices(parameter.values)
        return parameter.values[choices.index(trial.suggest_categorical(key, choices))]
    if parameter.integer:
        return trial.suggest_int(
            key, int(parameter.min), int(parameter.max), step=int(parameter.step or 1), log=parameter.log
        )
    return trial.suggest_float(key, float(parameter.min), float(parameter.max), step=parameter.step, log=parameter.log)


def distribution(parameter: Parameter) -> BaseDistribution:
    """The parameter as Optuna has it."""
    if not isinstance(parameter, Range):
        return CategoricalDistribution(_choices(parameter.values))
    if parameter.integer:
        low, high, step = int(parameter.min), int(parameter.max), int(parameter.step or 1)
        return IntDistribution(low, high, log=parameter.log, step=step)
    return FloatDistribution(float(parameter.min), float(parameter.max), log=parameter.log, step=parameter.step)


def _fitted(space: SearchSpace, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Values from elsewhere as a point of this space; None if they are none."""
    values = frozen(values)
    point = space.choose(lambda key, _: values.get(key))
    wrong = any(key not in values or space.parameters[key].expected(value) for key, value in point.items())
    return None if wrong or point.keys() != values.keys() or space.violated(point) else point


def _encoded(parameters: Mapping[str, Parameter], point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as Optuna has it."""

    def value(key: str) -> Any:
        parameter = parameters[key]
        if isinstance(parameter, Range):
            return point[key]
        # Equal and of one kind: 1 is not true.
        places = (i for i, v in enumerate(parameter.values) if v == point[key] and type(v) is type(point[key]))
        return _choices(parameter.values)[next(places)]

    return {key: value(key) for key in point}


def _choices(values: tuple[Any, ...]) -> list[Any]:
    """Categories as Optuna can keep them: what is neither a number nor a text as JSON."""
    plain = (str, int, float, bool, type(None))
    return [value if isinstance(value, plain) else json.dumps(value) for value in values]


class _Alone:
    """Optuna's lock of the journal, for which there is no need: the sweep's folder has one. Optuna's own would stay
    behind a killed process and keep the next one waiting.
    """

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _mend(path: Path) -> None:
    """Takes away a last line that was not written to its end, onto which the next would be appended."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        whole = file.read()
        file.truncate(whole.rfind(b"\n") + 1)
