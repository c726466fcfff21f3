"""What is made of a sweep when its trials have ended: tests, the best and the front as files, plots."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from aln.checkpoint_folder import CheckpointFolder
from aln.config import parse_run
from aln.job import Job
from aln.records import Point, TrialRecord, best_point, pareto_front
from aln.report.pareto import FRONT, draw_front, write_front
from aln.report.plots import draw_sweep
from aln.search.bookkeeper import Bookkeeper, training_of
from aln.search.interruption import Interruption
from aln.search.plan import SweepPlan
from aln.search.study import Study
from aln.space import RULE, format_point
from aln.tracking import TrackedRun, Tracker, reason


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a sweep found.

    Attributes:
        best: None if no searched trial trained at all.
        front: points that no other beats in all objectives; empty for one objective.
        test_top1: test accuracy in percent, by the label of each training of the best point and of the baselines.
    """

    best: Point | None
    front: Sequence[Point]
    test_top1: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """Tests, writes and draws. All of it can be done again, as a sweep that is resumed does.

    Attributes:
        parent: the sweep's own run.
        interruption: as soon as it hurries, nothing is tested or drawn.
    """

    plan: SweepPlan
    study: Study
    tracker: Tracker
    parent: TrackedRun
    bookkeeper: Bookkeeper
    interruption: Interruption

    def findings(self) -> Findings:
        """Tests the best point, the front and the baselines and writes what was found."""
        points, objectives = list(self.study.points.values()), self.plan.sweep.objectives
        best = best_point(points, objectives[0])
        front = pareto_front(points, objectives) if len(objectives) > 1 else []
        every = self.plan.sweep.test == "all"
        chosen = [p for p in points if p.baseline or p is best or p in front or (every and p.usable)]
        records = [record for point in chosen for record in point.records]
        tested = {} if self.interruption.hurried else self._test(records)
        self.parent.artifact(self._write_trials(tested))
        if best is not None:
            found = {f"best_{objective.metric}": best.mean(objective.metric) for objective in objectives}
            self._summarise(found | {f"test_top1/{label}": value for label, value in tested.items()})
            self.parent.artifact(self._write_best(best.usable[0]))
            if front:
                self._write_front(front)
            self.parent.note(f"Best trial **{best.label}**: {format_point(best.values)}")
        return Findings(best=best, front=front, test_top1=tested)

    def draw(self, say: Callable[[str], None]) -> None:
        """Draws what MLflow has of the sweep, on which the sweep itself does not depend."""
        if self.interruption.hurried:
            return
        self.tracker.drain()
        try:
            runs = self._of_this_sweep()
            where = self.plan.folder / "plots"
            files = draw_sweep(runs, self.tracker, self.plan.space, self.plan.sweep.objectives[0], where)
        except MlflowException as error:
            say(f"No plots: MLflow does not answer ({reason(error)}). --resume draws them.")
            return
        for file in files:
            self.parent.artifact(file, "plots")

    def _of_this_sweep(self) -> list[Run]:
        """The sweep's runs in MLflow. What began after the study was copied to where it was resumed is set aside."""
        known = {training_of(self.bookkeeper.tags(record)) for record in self.study.records.values()}
        mine = []
        for run in self.tracker.trials(self.parent):
            if training_of(run.data.tags) in known:
                mine.append(run)
            elif run.data.tags.get("status") != "lost":
                self.tracker.client.set_tag(run.info.run_id, "status", "lost")
                self.tracker.client.set_terminated(run.info.run_id, "KILLED")
        return mine

    def _test(self, records: Sequence[TrialRecord]) -> dict[str, float]:
        """Test top-1 in percent of each training's last checkpoint, by label. Nothing before sees the test split.

        What an earlier process has tested is not tested again.
        """
        tested, tests = {}, self.study.tests
        for record in records:
            known = tests.get(record.label)
            if known is None or known["epoch"] != record.epoch:
                checkpoints = CheckpointFolder(self.plan.checkpoints(record.label))
                if checkpoints.newest() is None:
                    continue
                content = self.bookkeeper.content(record)
                # On whatever device the driver has; a checkpoint does not mind.
                config = parse_run({**content, "compute": {**content["compute"], "device": "auto"}})
                known = self.study.note_test(record, Job(config, checkpoints).test().top1)
            self.bookkeeper.tested(record, known)
            tested[record.label] = known["top1"]
        return tested

    def _summarise(self, found: Mapping[str, float | None]) -> None:
        """Logs what was found on the sweep's run: once, however often a sweep with the same outcome is resumed."""
        values = {key: value for key, value in found.items() if value is not None}
        known = self.study.notes().get("found")
        if known is None or known["values"] != values:
            known = {"values": values, "time": int(time.time() * 1000)}
            self.study.note("found", known)
        self.parent.summarise(values, known["time"])

    def _write_best(self, best: TrialRecord) -> Path:
        """Writes the configuration that repeats the best training."""
        path = self.plan.folder / "best.yaml"
        path.write_text(parse_run(self.bookkeeper.content(best)).to_yaml(), encoding="utf-8")
        return path

    def _write_front(self, front: Sequence[Point]) -> None:
        """Writes the configurations of the Pareto front, and draws it."""
        configs = {point.label: parse_run(self.bookkeeper.content(point.usable[0])) for point in front}
        for file in write_front(self.plan.folder / FRONT, configs):
            self.parent.artifact(file, FRONT)
        if self.interruption.hurried:
            return
        objectives, plot = self.plan.sweep.objectives, self.plan.folder / "plots" / f"{FRONT}.png"
        completed = [point for point in self.study.points.values() if point.status == "completed"]
        known = {point.label: values for point in completed if (values := point.objectives(objectives))}
        baselines = {p.label: known.pop(p.label) for p in completed if p.baseline and p.label in known}
        draw_front(plot, objectives, known, configs.keys(), baselines)
        self.parent.artifact(plot, "plots")

    def _write_trials(self, tested: Mapping[str, float]) -> Path:
        """Writes one line a training: how it ended, what was measured, and what was searched."""
        plan, path = self.plan, self.plan.folder / "trials.csv"
        usual = ("val_top1", "val_top5", "val_loss", "train_loss", "train_seconds")
        metrics = tuple(dict.fromkeys([*usual, *(objective.metric for objective in plan.sweep.objectives)]))
        keys = [key for key in (*plan.space.parameters, *plan.space.ties) if key != RULE]
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["trial", "rule", "seed", "status", "epochs", *metrics, "test_top1", *keys])
            for point in self.study.points.values():
                rule = point.label if point.baseline else point.values.get(RULE, plan.space.rule)
                for record in point.records:
                    numbers = [record.measured.get(metric, "") for metric in metrics]
                    values = plan.space.values(point.values) if not point.baseline else {}
                    coefficients = [
                        ("null" if values[key] is None else values[key]) if key in values else "" for key in keys
                    ]
                    test, seed = tested.get(record.label, ""), plan.base.seed + record.repetition
                    table.writerow(
                        [record.label, rule, seed, record.status, record.epoch, *numbers, test, *coefficients]
                    )
        return path
