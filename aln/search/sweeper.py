"""A sweep from beginning to end: search, test the best beside the baselines, draw, and say where everything is."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from rich.console import Console

import aln
from aln.build import build_model, load_data
from aln.checkpoint_folder import CheckpointFolder
from aln.config import parse_run
from aln.conversion import coverage
from aln.fingerprint import versions
from aln.job import Job
from aln.records import KnownTrial, Point, Status, TrialRecord, best_point, pareto_front
from aln.report.pareto import FRONT, draw_front, write_front
from aln.report.plots import draw_sweep
from aln.search.bookkeeper import Bookkeeper
from aln.search.interruption import Interruption
from aln.search.plan import SweepPlan
from aln.search.screen import Screen
from aln.search.study import Study
from aln.search.tuning import cluster, tune_trials
from aln.search.warm_start import known_trials
from aln.space import RULE, format_point
from aln.sweep_folder import SPACE, SWEEP, SweepFolder
from aln.tracking import SPOOL, TrackedRun, Tracker, reason

# What MLflow has to hear the last when SIGKILL may follow; what waits longer waits in the spool.
_HURRIED_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """What a sweep found. `best` is None if no searched trial trained at all.

    Attributes:
        points: every point, baselines included.
        front: those that no other beats in all objectives; empty for one objective.
        test_top1: test accuracy in percent, by the label of each training of the best point and of the baselines.
        ended: which budget ended the sweep, in words; nothing if it ended with its last trial.
        interrupted: whether trials are missing because somebody stopped the sweep.
        seconds: this process's time.
        training_share: part of the slots' time that went into training and evaluating.
    """

    best: Point | None
    points: Sequence[Point]
    front: Sequence[Point]
    test_top1: dict[str, float]
    ended: str
    interrupted: bool
    tracker: Tracker
    seconds: float
    training_share: float


def run_sweep(
    plan: SweepPlan,
    folder: SweepFolder,
    console: Console,
    interruption: Interruption,
    began: float | None = None,
    *,
    resume: bool = False,
) -> SweepOutcome:
    """Runs the plan in its folder, or what is left of it. `began` is the `time.perf_counter` that its time begins at.

    Raises `SweepError` if no trial can be placed or another process runs the sweep, `AlnError` if the recipe cannot be
    built, the folder not be written or MLflow not be reached; nothing is left behind then.
    """
    began = time.perf_counter() if began is None else began
    data = load_data(plan.base.data)
    model = build_model(plan.config(plan.example()), data)
    console.print(
        f"{' or '.join(plan.space.rules)} on {plan.base.model.name}: {coverage(model)}.",
        highlight=False,
        soft_wrap=True,
    )
    with ExitStack() as held:
        if resume:
            held.enter_context(folder.taken())
        where, concurrent = held.enter_context(cluster(plan))
        interruption.listen()
        # Asked before the folder is made: a server that is not there leaves nothing behind.
        tracker = Tracker(plan.sweep.experiment, spool=plan.folder / SPOOL)
        known = [] if resume else known_trials(plan, tracker)
        if not resume:
            folder.begin(plan.sweep, plan.space)
            held.enter_context(folder.taken())
        console.print(f"Running on {where}: {concurrent} trials at once.", highlight=False, soft_wrap=True)
        return _run(
            plan, console, began, tracker, folder, concurrent, resume, known, interruption, data.examples("validation")
        )


def _run(
    plan: SweepPlan,
    console: Console,
    began: float,
    tracker: Tracker,
    folder: SweepFolder,
    concurrent: int,
    resume: bool,
    known: Sequence[KnownTrial],
    interruption: Interruption,
    images: int | None,
) -> SweepOutcome:
    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    def close_tracker() -> None:
        if missing := tracker.close(_HURRIED_SECONDS if interruption.hurried else 60.0):
            say(missing)

    study = Study(plan)
    if resume and "learned" not in study.notes():  # its first process died before
        known = known_trials(plan, tracker)
    for source, taken in study.learn(known).items():
        say(f"{taken} trials of {source} fit this search space and are known to the sampler.")
    trained_before = study.trained
    parent = tracker.run(plan.name, {"sweep": plan.name, "kind": "sweep", "sweep_id": study.identity})
    screen = Screen(plan, study, console)
    bookkeeper = Bookkeeper(plan, study, tracker, parent, screen.changed, resume)

    def last_words() -> None:
        bookkeeper.interrupt()
        parent.finish("interrupted")
        study.close()
        tracker.drain(_HURRIED_SECONDS)

    status: Status = "failed"
    try:
        if resume:
            folder.describe(plan.sweep)
            _say_what_is_there(study, folder, parent, console)
        _describe(plan, parent, images)
        with folder.copied(lambda: tracker.delivered(10.0), say):
            if not bookkeeper.finished:
                with interruption.searching(bookkeeper.stop, last_words), screen:
                    tune_trials(plan, concurrent, bookkeeper)
            ended = study.over()
            interrupted = not ended and not study.complete
            bookkeeper.interrupt()
            best, front, tested = _conclude(plan, study, parent, bookkeeper, interruption.hurried)
            if not interruption.hurried:
                _draw(plan, study, tracker, parent, bookkeeper, say)
        seconds = time.perf_counter() - began
        share = (study.trained - trained_before) / (concurrent * seconds)
        if share:
            parent.summarise({"sweep_seconds": seconds, "training_share": share})
        status = "interrupted" if interrupted else "completed" if best else "failed"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        with ExitStack() as last:  # each of them, whatever becomes of the others
            last.callback(close_tracker)
            last.callback(lambda: parent.finish(status))
            last.callback(study.close)
            last.callback(bookkeeper.interrupt)
    return SweepOutcome(
        best=best,
        points=list(study.points.values()),
        front=front,
        test_top1=tested,
        ended=ended,
        interrupted=interrupted,
        tracker=tracker,
        seconds=seconds,
        training_share=share,
    )


def _say_what_is_there(study: Study, folder: SweepFolder, parent: TrackedRun, console: Console) -> None:
    """What a resumed sweep finds, and what of the code is no longer what its first trials ran on."""
    ended = sum(record.status != "running" for record in study.records.values())
    going = sum(record.begun and record.status == "running" for record in study.records.values())
    again = f", {going} go on from their checkpoints" if going else ""
    console.print(f"{ended} of its trainings have ended{again}.", highlight=False, soft_wrap=True)
    if changed := folder.changed_code():
        named = ", ".join(changed[:6]) + (f" and {len(changed) - 6} more" if len(changed) > 6 else "")
        console.print(
            f"Code has changed since the sweep began: {named}.", highlight=False, soft_wrap=True, markup=False
        )
        parent.tag(code_changed=named)


def _describe(plan: SweepPlan, parent: TrackedRun, images: int | None) -> None:
    """What the sweep is, on its run; `images` are those by which trials are compared."""
    parent.begin()
    parent.describe(plan.base)
    parent.tag(rule=plan.space.rule, space=plan.space.name, versions=json.dumps({"aln": aln.__version__, **versions()}))
    if images:
        parent.tag(validation_images=str(images))
    parent.artifact(plan.folder / SWEEP)
    parent.artifact(plan.folder / SPACE)


def _conclude(
    plan: SweepPlan, study: Study, parent: TrackedRun, bookkeeper: Bookkeeper, hurried: bool
) -> tuple[Point | None, list[Point], dict[str, float]]:
    """Tests the best point and the baselines and writes what was found: the best, the front, the tests.

    Nothing is tested or drawn if it is to be quick.
    """
    points, objectives = list(study.points.values()), plan.sweep.objectives
    best = best_point(points, objectives[0])
    front = pareto_front(points, objectives) if len(objectives) > 1 else []
    every = plan.sweep.test == "all"
    chosen = [p for p in points if p.baseline or p is best or p in front or (every and p.usable)] if not hurried else []
    tested = _test(plan, study, bookkeeper, [record for point in chosen for record in point.records])
    parent.artifact(_write_trials(plan, points, tested))
    if best is not None:
        found = {f"best_{objective.metric}": best.mean(objective.metric) for objective in objectives}
        _summarise(study, parent, found | {f"test_top1/{label}": value for label, value in tested.items()})
        parent.artifact(_write_best(plan, bookkeeper, best.usable[0]))
        _write_front(plan, bookkeeper, parent, points, front, hurried)
        parent.note(f"Best trial **{best.label}**: {format_point(best.values)}")
    return best, front, tested


def _draw(
    plan: SweepPlan,
    study: Study,
    tracker: Tracker,
    parent: TrackedRun,
    bookkeeper: Bookkeeper,
    say: Callable[[str], None],
) -> None:
    """Draws what MLflow has of the sweep, on which the sweep itself does not depend."""
    tracker.drain()
    try:
        runs = _of_this_sweep(tracker, parent, study, bookkeeper)
        files = draw_sweep(runs, tracker, plan.space, plan.sweep.objectives[0], plan.folder / "plots")
    except MlflowException as error:
        say(f"No plots: MLflow does not answer ({reason(error)}). --resume draws them.")
        return
    for file in files:
        parent.artifact(file, "plots")


def _of_this_sweep(tracker: Tracker, parent: TrackedRun, study: Study, bookkeeper: Bookkeeper) -> list[Run]:
    """The sweep's runs in MLflow. What began after the study was copied to where it was resumed is set aside."""

    def which(tags: Mapping[str, str]) -> tuple[str | None, str | None]:
        return tags.get("trial"), tags.get("point_id")

    known = {which(bookkeeper.tags(record)) for record in study.records.values()}
    mine = []
    for run in tracker.trials(parent):
        if which(run.data.tags) in known:
            mine.append(run)
        elif run.data.tags.get("status") != "lost":
            tracker.client.set_tag(run.info.run_id, "status", "lost")
            tracker.client.set_terminated(run.info.run_id, "KILLED")
    return mine


def _test(plan: SweepPlan, study: Study, bookkeeper: Bookkeeper, records: Sequence[TrialRecord]) -> dict[str, float]:
    """Test top-1 in percent of each training's last checkpoint, by label. Nothing before sees the test split.

    What an earlier process has tested is not tested again, and logged at the same time, which MLflow keeps once.
    """
    tested, notes = {}, study.notes()
    for record in records:
        known = notes.get(f"test/{record.label}")
        if known is None or known["epoch"] != record.epoch:
            checkpoints = CheckpointFolder(plan.checkpoints(record.label))
            if checkpoints.newest() is None:
                continue
            content = bookkeeper.content(record)
            # On whatever device the driver has; a checkpoint does not mind.
            config = parse_run({**content, "compute": {**content["compute"], "device": "auto"}})
            top1 = Job(config, checkpoints).test().top1
            known = {"top1": top1, "epoch": record.epoch, "time": int(time.time() * 1000)}
            study.note(f"test/{record.label}", known)
        bookkeeper.run_of(record).summarise({"test_top1": known["top1"]}, known["time"])
        tested[record.label] = known["top1"]
    return tested


def _summarise(study: Study, parent: TrackedRun, found: Mapping[str, float | None]) -> None:
    """Logs what was found on the sweep's run: once, however often a sweep with the same outcome is resumed."""
    values = {key: value for key, value in found.items() if value is not None}
    known = study.notes().get("found")
    if known is None or known["values"] != values:
        known = {"values": values, "time": int(time.time() * 1000)}
        study.note("found", known)
    parent.summarise(values, known["time"])


def _write_best(plan: SweepPlan, bookkeeper: Bookkeeper, best: TrialRecord) -> Path:
    """Writes the configuration that repeats the best training."""
    path = plan.folder / "best.yaml"
    path.write_text(parse_run(bookkeeper.content(best)).to_yaml(), encoding="utf-8")
    return path


def _write_front(
    plan: SweepPlan,
    bookkeeper: Bookkeeper,
    parent: TrackedRun,
    points: Sequence[Point],
    front: Sequence[Point],
    hurried: bool,
) -> None:
    """Writes the configurations of the Pareto front, and draws it, if there are several objectives."""
    if not front:
        return
    configs = {point.label: parse_run(bookkeeper.content(point.usable[0])) for point in front}
    for file in write_front(plan.folder / FRONT, configs):
        parent.artifact(file, FRONT)
    if not hurried:
        objectives, plot = plan.sweep.objectives, plan.folder / "plots" / f"{FRONT}.png"
        known = {p.label: v for p in points if p.status == "completed" and (v := p.objectives(objectives))}
        baselines = {point.label: known.pop(point.label) for point in points if point.baseline and point.label in known}
        draw_front(plot, objectives, known, configs.keys(), baselines)
        parent.artifact(plot, "plots")


def _write_trials(plan: SweepPlan, points: Sequence[Point], tested: Mapping[str, float]) -> Path:
    """Writes one line a training: how it ended, what was measured, and what was searched."""
    path = plan.folder / "trials.csv"
    usual = ("val_top1", "val_top5", "val_loss", "train_loss", "train_seconds")
    metrics = tuple(dict.fromkeys([*usual, *(objective.metric for objective in plan.sweep.objectives)]))
    keys = [key for key in (*plan.space.parameters, *plan.space.ties) if key != RULE]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["trial", "rule", "seed", "status", "epochs", *metrics, "test_top1", *keys])
        for point in points:
            rule = point.label if point.baseline else point.values.get(RULE, plan.space.rule)
            for record in point.records:
                numbers = [record.measured.get(metric, "") for metric in metrics]
                values = plan.space.values(point.values) if not point.baseline else {}
                searched = [("null" if values[key] is None else values[key]) if key in values else "" for key in keys]
                test, seed = tested.get(record.label, ""), plan.base.seed + record.repetition
                table.writerow([record.label, rule, seed, record.status, record.epoch, *numbers, test, *searched])
    return path
