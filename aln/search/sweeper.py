"""A sweep from beginning to end: search, test the best beside the baselines, draw, and say where everything is."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from mlflow.exceptions import MlflowException
from rich.console import Console

import aln
from aln.build import build_model, load_data
from aln.conversion import coverage
from aln.fingerprint import versions
from aln.records import Point, Status
from aln.search.bookkeeper import Bookkeeper
from aln.search.conclusion import Conclusion, Findings
from aln.search.interruption import Interruption
from aln.search.plan import SweepPlan
from aln.search.screen import Screen
from aln.search.study import Study
from aln.search.tuning import cluster, tune_trials
from aln.search.warm_start import known_trials
from aln.sweep_folder import SPACE, SWEEP, SweepFolder
from aln.tracking import SPOOL, TrackedRun, Tracker

# What MLflow has to hear the last when SIGKILL may follow; what waits longer waits in the spool.
_HURRIED_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class SweepOutcome(Findings):
    """What a sweep found, and how it ended.

    Attributes:
        points: every point, baselines included.
        ended: which budget ended the sweep, in words; nothing if it ended with its last trial.
        interrupted: whether trials are missing because somebody stopped the sweep.
        seconds: this process's time.
        training_share: part of the slots' time that went into training and evaluating.
    """

    points: Sequence[Point]
    ended: str
    interrupted: bool
    tracker: Tracker
    seconds: float
    training_share: float


@dataclass(frozen=True, kw_only=True)
class Sweeper:
    """Runs the plan in its folder, or what is left of it.

    Attributes:
        resume: whether the folder has the sweep already.
        began: the `time.perf_counter` that its time begins at.
    """

    plan: SweepPlan
    folder: SweepFolder
    console: Console
    interruption: Interruption
    resume: bool
    began: float = field(default_factory=time.perf_counter)

    def run(self) -> SweepOutcome:
        """Runs it to its end, or until it is interrupted.

        Raises `SweepError` if no trial can be placed or another process runs the sweep, `AlnError` if the recipe cannot
        be built, the folder not be written or MLflow not be reached; nothing is left behind then.
        """
        plan, folder = self.plan, self.folder
        data = load_data(plan.base.data)
        model = build_model(plan.config(plan.example()), data)
        self._say(f"{' or '.join(plan.space.rules)} on {plan.base.model.name}: {coverage(model)}.")
        with ExitStack() as held:
            if self.resume:
                held.enter_context(folder.taken())
            where, concurrent = held.enter_context(cluster(plan))
            self.interruption.listen()
            # Asked before the folder is made: a server that is not there leaves nothing behind.
            tracker = Tracker(plan.sweep.experiment, spool=plan.folder / SPOOL)
            known = [] if self.resume else known_trials(plan, tracker)
            if not self.resume:
                folder.begin(plan.sweep, plan.space)
                held.enter_context(folder.taken())
            self._say(f"Running on {where}: {concurrent} trials at once.")
            study = Study(plan)
            if self.resume and "learned" not in study.notes():  # its first process died before
                known = known_trials(plan, tracker)
            for source, taken in study.learn(known).items():
                self._say(f"{taken} trials of {source} fit this search space and are known to the sampler.")
            return self._search(study, tracker, concurrent, data.examples("validation"))

    def _search(self, study: Study, tracker: Tracker, concurrent: int, images: int | None) -> SweepOutcome:
        """Trains what is left, and concludes; whatever happens, nothing stays open, and nothing that ended is lost."""
        plan, interruption, trained_before = self.plan, self.interruption, study.trained
        parent = tracker.run(plan.name, {"sweep": plan.name, "kind": "sweep", "sweep_id": study.identity})
        screen = Screen(plan, study, self.console)
        bookkeeper = Bookkeeper(plan, study, tracker, parent, screen.changed, self.resume)

        def last_words() -> None:
            bookkeeper.interrupt()
            parent.finish("interrupted")
            study.close()
            tracker.drain(_HURRIED_SECONDS)

        def close_tracker() -> None:
            if missing := tracker.close(_HURRIED_SECONDS if interruption.hurried else 60.0):
                self._say(missing)

        status: Status = "failed"
        try:
            if self.resume:
                self.folder.describe(plan.sweep)
                self._say_what_is_there(study, parent)
            self._describe(parent, images)
            if self.resume:
                self._tell_again(bookkeeper, tracker, parent)
            with self.folder.copied(lambda: tracker.delivered(10.0), self._say):
                if not bookkeeper.finished:
                    with interruption.searching(bookkeeper.stop, last_words), screen:
                        tune_trials(plan, concurrent, bookkeeper)
                ended = study.over()
                interrupted = not ended and not study.complete
                bookkeeper.interrupt()
                conclusion = Conclusion(
                    plan=plan,
                    study=study,
                    tracker=tracker,
                    parent=parent,
                    bookkeeper=bookkeeper,
                    interruption=interruption,
                )
                findings = conclusion.findings()
                conclusion.draw(self._say)
            seconds = time.perf_counter() - self.began
            share = (study.trained - trained_before) / (concurrent * seconds)
            if share:
                parent.summarise({"sweep_seconds": seconds, "training_share": share})
            status = "interrupted" if interrupted else "completed" if findings.best else "failed"
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
            best=findings.best,
            front=findings.front,
            test_top1=findings.test_top1,
            points=list(study.points.values()),
            ended=ended,
            interrupted=interrupted,
            tracker=tracker,
            seconds=seconds,
            training_share=share,
        )

    def _say_what_is_there(self, study: Study, parent: TrackedRun) -> None:
        """What a resumed sweep finds, and what of the code is no longer what its first trials ran on."""
        ended = sum(record.status != "running" for record in study.records.values())
        going = sum(record.begun and record.status == "running" for record in study.records.values())
        again = f", {going} go on from their checkpoints" if going else ""
        self._say(f"{ended} of its trainings have ended{again}.")
        if changed := self.folder.changed_code():
            named = ", ".join(changed[:6]) + (f" and {len(changed) - 6} more" if len(changed) > 6 else "")
            self._say(f"Code has changed since the sweep began: {named}.")
            parent.tag(code_changed=named)

    def _tell_again(self, bookkeeper: Bookkeeper, tracker: Tracker, parent: TrackedRun) -> None:
        """Tells MLflow what it has lost, or never had, as far as the study holds it."""
        if not tracker.delivered(10.0):  # what it holds is not known before it has what waits in the spool
            self._say("MLflow does not keep up: whether it lacks trainings is asked with the next --resume.")
            return
        with suppress(MlflowException):
            if told := bookkeeper.tell_again(tracker.trials(parent)):
                self._say(f"MLflow had no run of {told} trainings: told again, but for what was measured of layers.")

    def _describe(self, parent: TrackedRun, images: int | None) -> None:
        """What the sweep is, on its run; `images` are those by which trials are compared."""
        plan = self.plan
        parent.begin()
        parent.describe(plan.base)
        parent.tag(
            rule=plan.space.rule, space=plan.space.name, versions=json.dumps({"aln": aln.__version__, **versions()})
        )
        if images:
            parent.tag(validation_images=str(images))
        parent.artifact(plan.folder / SWEEP)
        parent.artifact(plan.folder / SPACE)

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)
