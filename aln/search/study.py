"""The one truth of a sweep: its points, what was suggested, and what came of it, in `SWEEP/study.log`.

The file is Optuna's journal: what has been said there stays said, whatever is killed and when. Everything else
(MLflow, the screen, `trials.csv`, which training comes next) follows from it. Ray Tune's own snapshots are neither read
nor kept.
"""

from __future__ import annotations

import math
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from aln.encoding import distribution, encoded, fitted, suggested
from aln.errors import SweepError
from aln.records import ENDED_BADLY, KnownTrial, Point, Status, TrialRecord, training_label
from aln.search.journal import Journal
from aln.search.plan import SweepPlan
from aln.search.samplers import make_pruner, make_sampler
from aln.seeds import derived_seed
from aln.space.parameters import frozen, thawed
from aln.sweep_folder import STUDY

_DIVERGED = "constraints:diverged"  # where Optuna's `Trial.set_constraint` would keep it
BASELINES, SEARCHED = "baselines", "searched"  # the names of its two studies
_TEST = "test/"  # before the label of a training: the note of its test

# Samplers that know completed trials alone: where most are stopped early they would search at random.
_BLIND = ("cmaes", "gp")

# After so many suggestions in a row that break a constraint a point is drawn at random: a Gaussian process takes its
# time and suggests nearly the same again. After so many draws there is nothing to be found.
_TRIES, _TRIES_OF_GP, _DRAWS = 20, 3, 10_000

# How often it is kept how long the sweep has run, so that a process that is killed forgets no more.
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
        self._ids: dict[str, int] = {}
        self._known = plan.known_points()
        self._asked = self._failures = self._unfinished = 0
        self.trained, self._reached = 0.0, ""
        self._storage = Journal(plan.folder / STUDY)
        self._baselines, self._searched = self._open(BASELINES), self._open(SEARCHED)
        for study in (self._baselines, self._searched):
            for trial in self._storage.every_trial(study._study_id):
                self._recall(study, trial)
        self._with_baselines = all(rule in self.points for rule in plan.sweep.baselines)
        self._spent, self._opened = float(self._searched.user_attrs.get("spent", 0.0)), time.monotonic()
        self._noted = self._spent
        # The generators of samplers begin anew in each process, but must not repeat themselves.
        self._searched.sampler = make_sampler(plan.sweep, begin=self._asked)
        self._pruner = make_pruner(plan.sweep, plan.base.epochs)
        if self._pruner is not None:  # samplers look whether it is Hyperband
            self._searched.pruner = self._pruner

    @property
    def _constrained(self) -> bool:
        """Whether the sampler ranks what breaks a constraint last."""
        return self._plan.sweep.sampler.name == "tpe"

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

    @property
    def tests(self) -> dict[str, dict[str, Any]]:
        """What `note_test` has kept, by the label of the training."""
        return {key.removeprefix(_TEST): kept for key, kept in self.notes().items() if key.startswith(_TEST)}

    def note_test(self, record: TrialRecord, top1: float) -> dict[str, Any]:
        """Keeps and returns the test `top1` in percent of a training, its `epoch`, and the `time` (ms since 1970)."""
        kept = {"top1": top1, "epoch": record.epoch, "time": int(time.time() * 1000)}
        self.note(f"{_TEST}{record.label}", kept)
        return kept

    def epochs(self) -> dict[str, list[dict[str, float]]]:
        """The metrics of every epoch of every training, by label; those of layers are not kept here."""
        labels = {(self._ids[record.of], _training(record)): record.label for record in self.records.values()}
        found: dict[str, dict[float, dict[str, float]]] = {label: {} for label in labels.values()}
        for trial, name, kept in self._storage.attributes():
            if (trial, name) in labels and kept["metrics"]:
                found[labels[trial, name]][kept["metrics"]["epoch"]] = kept["metrics"]
        return {label: list(epochs.values()) for label, epochs in found.items()}

    def learn(self, known: Iterable[KnownTrial]) -> dict[str, int]:
        """Tells the sampler what was found elsewhere; returns how many trials of each source fit this space.

        They are no points of this sweep and count nowhere. What an earlier process told before it died is not told
        again.
        """
        everything = self._storage.every_trial(self._searched._study_id)
        told = Counter(trial.user_attrs.get("source") for trial in everything)
        taken: Counter[str] = Counter()
        for trial in known:
            taken[trial.source] += 0
            values = [trial.metrics.get(objective.metric, math.nan) for objective in self._objectives]
            point = fitted(self._plan.space, trial.values)
            if point is None or (trial.metrics and not all(map(math.isfinite, values))):
                continue
            taken[trial.source] += 1
            if taken[trial.source] <= told[trial.source]:
                continue
            parameters = {key: self._plan.space.parameters[key] for key in point}
            self._searched.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE if trial.metrics else TrialState.PRUNED,
                    values=values if trial.metrics else None,
                    params=encoded(parameters, point),
                    distributions={key: distribution(parameter) for key, parameter in parameters.items()},
                    user_attrs={"source": trial.source},
                    system_attrs={} if trial.metrics or not self._constrained else {_DIVERGED: 1.0},
                )
            )
        self.note("learned", dict(taken))
        return dict(taken)

    # What comes next

    def next(self) -> TrialRecord | None:
        """The training that is to begin or to go on now; None if none is, for now or for good (`exhausted`)."""
        if not self._waiting:
            if not self._with_baselines:
                self._begin_baselines()
            elif self._asked < self._plan.trials:
                self._suggest()
        if not self._waiting:
            return None
        record = self._waiting.popleft()
        record.begun = True
        self._keep(record)
        return record

    def again(self, record: TrialRecord) -> None:
        """A training that was to begin did not: it is next."""
        self._waiting.appendleft(record)

    @property
    def exhausted(self) -> bool:
        """Whether no training will begin any more: all points are there, and none that runs may be repeated."""
        asked = self._with_baselines and self._asked >= self._plan.trials
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
        given = self._known[self._asked] if self._asked < len(self._known) else {}
        tries = _TRIES_OF_GP if self._plan.sweep.sampler.name == "gp" else _TRIES
        for attempt in range(tries + 1):
            if attempt == tries:
                given = self._drawn(given)
            if given:
                self._searched.enqueue_trial(encoded(space.parameters, given))
            trial = self._searched.ask()
            point = space.choose(lambda key, parameter: suggested(trial, key, parameter))  # noqa: B023
            if not space.violated(point):
                break
            self._searched.tell(trial, state=TrialState.FAIL)
        self._waiting.extend(self._name(self._searched, trial._trial_id, f"{self._asked:03d}", point)[:1])

    def _drawn(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A point at random with the values given that breaks no constraint. Raises `SweepError` if none is found."""
        space = self._plan.space
        generator = random.Random(derived_seed(self._plan.sweep.sampler.seed, self._asked))  # noqa: S311 (no secret)
        for _ in range(_DRAWS):
            if not space.violated(point := space.draw(generator, given)):
                return point
        texts = ", ".join(constraint.text for constraint in space.constraints)
        raise SweepError(f"{_DRAWS:,} points in a row broke a constraint of the space: {texts}")

    def _name(self, study: optuna.Study, trial: int, label: str, point: Mapping[str, Any]) -> list[TrialRecord]:
        """Makes a trial of Optuna a point of the sweep; without a label it never was one."""
        self._storage.set_trial_user_attr(trial, "point", thawed(point))
        self._storage.set_trial_user_attr(trial, "label", label)
        return self._add(label, point, trial, baseline=study is self._baselines).records

    def _add(self, label: str, values: Mapping[str, Any], trial: int, baseline: bool) -> Point:
        seeds = self._plan.sweep.seeds
        epochs = self._plan.epochs(values)
        records = [
            TrialRecord(label=training_label(label, repetition, seeds), of=label, repetition=repetition, epochs=epochs)
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
        pruner = None if point.baseline or record.repetition else self._pruner
        if pruner is not None:
            metric = self._objectives[0].metric
            value = math.nan if record.metrics.get("diverged") else record.metrics.get(metric, math.nan)
            self._storage.set_trial_intermediate_value(trial, record.epoch, value)
        # After the value: an epoch that the record holds is not reported again if the process dies between the two.
        self.trained += record.metrics.get("epoch_seconds", 0.0)
        self._keep(record)
        if self.spent - self._noted > _SPENT_SECONDS:
            self._note_spent()
        if not point.baseline and point.status == "diverged":  # another of its trainings
            return True
        if pruner is None or record.epoch >= record.epochs or record.metrics.get("diverged"):
            return False
        return pruner.prune(self._searched, self._storage.get_trial(trial))

    def end(self, record: TrialRecord, status: Status, error: str = "") -> None:
        """Keeps how a training ended. If it was its point's last, the sampler hears of the point."""
        record.status, record.error = status, error
        self._keep(record)
        point = self.points[record.of]
        if status != "completed":
            self._give_up(point)
        elif record.repetition == 0 and not point.baseline:
            self._waiting.extendleft(reversed(point.records[1:]))
        if all(other.status != "running" for other in point.records):
            self._tell(point)
        self._note_spent()

    def _give_up(self, point: Point) -> None:
        """Leaves out the trainings of a searched point that have not begun: more of the same is not worth it."""
        if not point.baseline:
            dropped = [record for record in point.records if not record.begun]
            point.records[:] = [record for record in point.records if record.begun]
            for record in dropped:
                del self.records[record.label]
            self._waiting = deque(record for record in self._waiting if record not in dropped)

    def _keep(self, record: TrialRecord) -> None:
        self._storage.set_trial_user_attr(self._ids[record.of], _training(record), record.plain())

    def _tell(self, point: Point) -> None:
        """Tells Optuna how a point ended.

        A diverged one counts as pruned, where a failed one would be forgotten. That alone would make it better than
        whatever was pruned at an earlier epoch, so TPE hears that it breaks a constraint: worse than all others.
        """
        study = self._baselines if point.baseline else self._searched
        trial = self._storage.get_trial(self._ids[point.label])
        values, status = point.objectives(self._objectives), point.status
        if status == "diverged" and self._constrained:
            self._storage.set_trial_system_attr(trial._trial_id, _DIVERGED, 1.0)
        if values is None or status != "completed":
            values = self._stand_in(point)
        if values is not None:
            study.tell(trial.number, values)
        elif status in ("stopped", "diverged", "completed") and len(self._objectives) == 1:
            study.tell(trial.number, state=TrialState.PRUNED)
        else:
            study.tell(trial.number, state=TrialState.FAIL)
        self._finished(point)

    def _stand_in(self, point: Point) -> list[float] | None:
        """What a stopped or diverged point is told with, if the sampler learns nothing from a pruned one.

        For the one that is its last value, for the other the worst that was told so far, if anything was.
        """
        if self._plan.sweep.sampler.name not in _BLIND or point.baseline or len(self._objectives) > 1:
            return None
        if point.status == "stopped":
            return point.objectives(self._objectives)
        known = self._searched.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        worst = min if self._objectives[0].mode == "max" else max
        return [worst(trial.values[0] for trial in known)] if point.status == "diverged" and known else None

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
        self._noted = self.spent
        self.note("spent", self._noted)

    def _recall(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """A point that an earlier process began."""
        label = trial.user_attrs.get("label")
        if label is None:
            if not trial.state.is_finished():  # its process died while it was being suggested
                self._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
            return
        point = self._add(label, frozen(trial.user_attrs["point"]), trial._trial_id, baseline=study is self._baselines)
        for record in point.records:
            kept = trial.user_attrs.get(_training(record))
            record.begun = kept is not None
            if kept is not None:
                record.status, record.metrics = kept["status"], kept["metrics"]
                record.error, record.restarts = kept["error"], kept["restarts"]
            self.trained += record.metrics.get("train_seconds", 0.0)
        if any(record.status not in ("running", "completed") for record in point.records):
            self._give_up(point)
        running = [record for record in point.records if record.status == "running"]
        if trial.state.is_finished():
            self._finished(point)
        elif not running:  # its process died between the two
            self._tell(point)
        else:
            alone = point.records[0].status == "running" and not point.baseline
            self._waiting.extend(running[:1] if alone else running)


def _training(record: TrialRecord) -> str:
    """The name under which a point's trial keeps a training."""
    return f"training{record.repetition}"
