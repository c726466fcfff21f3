"""The one way in which a training runs, wherever it runs: built, resumed from its checkpoints, trained, saved.

Worker 0 reads and writes checkpoints; the others hear from it what was read, and whether writing failed, so that all
of them stand at the same step and end with the same error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from aln.build import build, evaluate_test, resume_from
from aln.checkpoint import TrainState
from aln.checkpoint_folder import CheckpointFolder
from aln.config import RunConfig
from aln.engine import EpochResult, Evaluation, StepProgress, fit
from aln.threads import compute_with
from aln.world import ALONE, World


def checkpoints_of(config: RunConfig, root: str | Path) -> CheckpointFolder:
    """The folder, or the URL, where a run's checkpoints go, which keeps as many as the configuration says."""
    keep = config.checkpoint
    return CheckpointFolder(root, keep_last=keep.keep_last, keep_best=keep.keep_best)


class Job:
    """A training of a configuration, which stands where the newest readable checkpoint of its folder does.

    Raises `AlnError` if the configuration cannot be built, or `CheckpointError` if that checkpoint is of another one.

    Args:
        folder: where checkpoints are (`checkpoints_of`); without one, nothing is kept. Only worker 0 looks there.
        world: the workers that train together; each makes its own `Job` and calls the same methods.
        tell: hears, on worker 0, lines that a person should read: a damaged checkpoint, an old one that stays.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: CheckpointFolder | None = None,
        world: World = ALONE,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        compute_with(config.resources.cpus)
        self.config, self.world = config, world
        self.run = build(config, world)
        self._folder, self._tell = folder, tell
        found = None if folder is None else world.lead(folder.newest)
        if found is not None:
            resume_from(self.run, found.content, found.address)
            self._say(*found.damaged)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.run.state.epoch

    def train(self, *, on_step: Callable[[StepProgress], None] | None = None) -> Iterator[EpochResult]:
        """Trains to the end, yielding after each epoch (`aln.engine.fit`) and saving as `config.checkpoint` says.

        An epoch is saved when the caller asks for the next one. So whatever is killed and when: the caller has heard of
        every epoch that a checkpoint holds, and hears again, in the same numbers, of those after the newest checkpoint.
        """
        run, policy = self.run, self.config.checkpoint
        save = None if self._folder is None else self._save
        for result in fit(run.state, run.source, run.settings, self.world, on_step=on_step, save=save):
            yield result
            due = result.epoch % policy.every == 0 or result.epoch == self.config.epochs
            if due and result.validation is not None:
                self._save(run.state, result.validation.top1)

    def test(self) -> Evaluation:
        """The model as it stands, on the test split."""
        return evaluate_test(self.run, self.world)

    def _save(self, state: TrainState, score: float | None = None) -> None:
        folder = self._folder
        if folder is not None:
            self._say(self.world.lead(lambda: folder.save(state, score)).complaint)

    def _say(self, *lines: str) -> None:
        if self._tell is not None and self.world.rank == 0:
            for line in filter(None, lines):
                self._tell(line)
