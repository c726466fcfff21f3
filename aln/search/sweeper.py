"""A sweep from beginning to end: search, test the best beside the baselines, draw, and say where everything is."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from aln.build import build_model, load_data
from aln.checkpoint_folder import CheckpointFolder
from aln.config import dump, parse_run
from aln.conversion import coverage
from aln.job import Job
from aln.preflight import make_folder
from aln.report import draw_sweep
from aln.search.listener import Listener
from aln.search.plan import SweepPlan
from aln.search.records import Status, TrialRecord, ranked
from aln.search.screen import Screen
from aln.search.tuning import cluster, tune_trials
from aln.space import format_point
from aln.tracking import SPOOL, TrackedRun, Tracker


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """What a sweep found. `best` is None if no searched trial trained at all.

    Attributes:
        records: every trial, baselines included.
        test_top1: test accuracy in percent, by label, of the best trial and the baselines.
        interrupted: whether trials are missing because somebody stopped the sweep.
        seconds: the whole sweep's time.
        training_share: part of the slots' time that went into training and evaluating.
    """

    best: TrialRecord | None
    records: Sequence[TrialRecord]
    test_top1: dict[str, float]
    interrupted: bool
    tracker: Tracker
    seconds: float
    training_share: float


def run_sweep(plan: SweepPlan, console: Console, began: float | None = None) -> SweepOutcome:
    """Runs the plan. `began` is the `time.perf_counter` from which the sweep's time is counted.

    Raises `SweepError` if no trial can be placed, `AlnError` if the recipe cannot be built, the folder not be written
    or MLflow not be reached; nothing is left behind then.
    """
    began = time.perf_counter() if began is None else began
    # What cannot be built is refused before anything starts; on the CPU, since the driver may have no other device.
    layers = coverage(build_model(plan.base, load_data(plan.base.data)))
    console.print(f"{plan.base.model.name}: {layers}.", highlight=False)
    with cluster(plan) as (where, concurrent):
        tracker = Tracker(plan.sweep.experiment, spool=plan.folder / SPOOL)
        make_folder(plan.folder)
        console.print(f"Running on {where}: {concurrent} trials at once.", highlight=False)
        parent = tracker.run(plan.name, {"sweep": plan.name, "kind": "sweep"}, fresh=True)
        screen = Screen(plan, console)
        listener = Listener(plan.name, tracker, parent, screen.changed)
        status: Status = "failed"
        try:
            _describe(plan, parent)
            with screen:
                tune_trials(plan, concurrent, listener)
            outcome = _conclude(plan, tracker, parent, listener, concurrent, began)
            status = "interrupted" if outcome.interrupted else "completed" if outcome.best else "failed"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            listener.interrupt()
            parent.finish(status)
            if missing := tracker.close():
                console.print(missing, highlight=False, soft_wrap=True)
    return outcome


def _describe(plan: SweepPlan, parent: TrackedRun) -> None:
    """What the sweep is, in its folder and on its run."""
    parent.describe(plan.base)
    parent.tag(rule=plan.space.rule, space=plan.space.name)
    path = plan.folder / "sweep.yaml"
    path.write_text(dump(plan.sweep.model_dump(mode="json")), encoding="utf-8")
    parent.artifact(path)


def _conclude(
    plan: SweepPlan,
    tracker: Tracker,
    parent: TrackedRun,
    listener: Listener,
    concurrent: int,
    began: float,
) -> SweepOutcome:
    """Tests the best trial and the baselines, draws, and writes what was found."""
    records = list(listener.records.values())
    planned = plan.sweep.trials + len(plan.sweep.baselines)
    interrupted = len(records) < planned or any(record.status == "running" for record in records)
    listener.interrupt()
    best = next((r for r in ranked(records, plan.sweep.mode) if r.status in ("completed", "stopped")), None)
    tested = _test(plan, [r for r in records if r.baseline or r is best])
    for record in records:
        if record.label in tested:
            listener.run_of(record).summarise({"test_top1": tested[record.label]})
    parent.artifact(_write_trials(plan, records, tested))
    if best is not None:
        parent.summarise({f"best_{plan.sweep.metric}": best.metrics[plan.sweep.metric]})
        parent.summarise({f"test_top1/{label}": value for label, value in tested.items()})
        parent.artifact(_write_best(plan, best))
        parent.note(f"Best trial **{best.label}**: {format_point(best.point)}")
    tracker.drain()
    runs, folder = tracker.trials(parent), plan.folder / "plots"
    for file in draw_sweep(runs, tracker, plan.space, plan.sweep.metric, plan.sweep.mode, folder):
        parent.artifact(file, "plots")
    seconds = time.perf_counter() - began
    share = sum(r.metrics.get("fit_seconds", 0.0) for r in records) / (concurrent * seconds)
    parent.summarise({"sweep_seconds": seconds, "training_share": share})
    return SweepOutcome(
        best=best,
        records=records,
        test_top1=tested,
        interrupted=interrupted,
        tracker=tracker,
        seconds=seconds,
        training_share=share,
    )


def _test(plan: SweepPlan, records: Sequence[TrialRecord]) -> dict[str, float]:
    """Test top-1 in percent of each trial's last checkpoint, by label. Nothing before sees the test split."""
    tested = {}
    for record in records:
        checkpoints = CheckpointFolder(plan.checkpoints(record.label))
        if checkpoints.newest() is None:
            continue
        # On whatever device the driver has; a checkpoint does not mind.
        config = parse_run({**record.content, "compute": {**record.content.get("compute", {}), "device": "auto"}})
        tested[record.label] = Job(config, checkpoints).test().top1
    return tested


def _write_best(plan: SweepPlan, best: TrialRecord) -> Path:
    """Writes the configuration that repeats the best trial."""
    path = plan.folder / "best.yaml"
    path.write_text(parse_run(best.content).to_yaml(), encoding="utf-8")
    return path


def _write_trials(plan: SweepPlan, records: Sequence[TrialRecord], tested: Mapping[str, float]) -> Path:
    """Writes one line a trial: how it ended, what it reached, and what was searched."""
    path = plan.folder / "trials.csv"
    metrics = ("val_top1", "val_top5", "val_loss", "train_loss")
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["trial", "rule", "status", "epochs", *metrics, "test_top1", *plan.space.parameters])
        for record in records:
            rule = record.label if record.baseline else plan.space.rule
            numbers = [record.metrics.get(metric, "") for metric in metrics]
            point = [record.point.get(key, "") for key in plan.space.parameters]
            test = tested.get(record.label, "")
            table.writerow([record.label, rule, record.status, record.epoch, *numbers, test, *point])
    return path
