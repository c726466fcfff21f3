"""A study from beginning to end: one sweep after the other, each as `aln.sweep` runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from rich.console import Console

from aln.cluster import joined_cluster
from aln.config import Document, Objective
from aln.records import Point, trained_points
from aln.search.interruption import Interruption
from aln.search.plan import SweepPlan
from aln.search.study import Study
from aln.search.sweeper import Sweeper
from aln.space import parse_space
from aln.study.folder import StudyFolder
from aln.study.plan import PlannedSweep, Stage, StudyPlan
from aln.study.points import Found, space_of
from aln.sweep_folder import SweepFolder


@dataclass(frozen=True, kw_only=True)
class EndedSweep:
    """What came of a sweep.

    Attributes:
        test_top1: test accuracy in percent of the trainings that were tested, by label.
    """

    stage: str
    planned: PlannedSweep
    plan: SweepPlan
    points: Sequence[Point]
    test_top1: Mapping[str, float]

    @property
    def objective(self) -> Objective:
        """What its points are ranked by."""
        return self.plan.sweep.objectives[0]

    def best(self, count: int) -> list[Point]:
        """So many of its searched points that trained, from the best on."""
        return trained_points(self.points, self.objective)[:count]


def run_study(study: StudyPlan, folder: StudyFolder, console: Console, interruption: Interruption) -> list[EndedSweep]:
    """Runs what is left of a study; returns all its sweeps.

    A stage whose points are those of another one passes over what did not train there. Raises `KeyboardInterrupt` if a
    sweep was stopped before its end, `AlnError` as `Sweeper` does.
    """
    ended: dict[str, list[EndedSweep]] = {stage.name: [] for stage in study.stages}
    every = [(stage, planned) for stage in study.stages for planned in stage.sweeps]
    with ExitStack() as held:
        for number, (stage, planned) in enumerate(every, 1):
            title = f"[{number}/{len(every)}] {folder.name}-{planned.name}"
            plan = _plan(folder, stage, planned, ended)
            if plan is None:
                console.print(f"{title}: nothing to train, as no point of {stage.source} did", highlight=False)
                continue
            if plan.name not in folder.ended():
                console.print(title, style="bold", highlight=False, markup=False)
                held.enter_context(joined_cluster())  # one for all that is left
                _run_to_its_end(folder, plan, console, interruption)
            ended[stage.name].append(_ended(stage, planned, plan))
    return [sweep for sweeps in ended.values() for sweep in sweeps]


def _plan(
    folder: StudyFolder, stage: Stage, planned: PlannedSweep, ended: Mapping[str, Sequence[EndedSweep]]
) -> SweepPlan | None:
    """What the sweep will do; None if it would train points of a stage in which none trained."""
    space, sweep = planned.space, planned.sweep
    if stage.source is not None:
        found: list[Found] = [(s.plan.space, point.values) for s in ended[stage.source] for point in s.best(stage.top)]
        if not found:
            return None
        space = parse_space(Document(space_of(stage.source, found)), sweep.run)
        sweep = sweep.model_copy(update={"trials": len(found)})
    name = f"{folder.name}-{planned.name}"
    where = SweepFolder(folder.storage, name)
    return SweepPlan(name=name, space=space, sweep=sweep, base=planned.base, folder=where.path, remote=where.remote)


def _run_to_its_end(folder: StudyFolder, plan: SweepPlan, console: Console, interruption: Interruption) -> None:
    """Runs a sweep, or what is left of it."""
    where = SweepFolder(folder.storage, plan.name)
    resume = where.is_begun()
    sweeper = Sweeper(plan=plan, folder=where, console=console, interruption=interruption, resume=resume)
    if sweeper.run().interrupted:
        raise KeyboardInterrupt
    folder.note_ended(plan.name)


def _ended(stage: Stage, planned: PlannedSweep, plan: SweepPlan) -> EndedSweep:
    """What the journal of a sweep that has ended holds."""
    kept = Study(plan)
    tested = {label: test["top1"] for label, test in kept.tests.items()}
    points = list(kept.points.values())
    return EndedSweep(stage=stage.name, planned=planned, plan=plan, points=points, test_top1=tested)
