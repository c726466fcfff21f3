"""What a sweep will do, settled before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aln.checkpoint_folder import CHECKPOINTS
from aln.config import OF_ALIGNMENT, RunConfig, SweepConfig, parse_run
from aln.errors import SweepError
from aln.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """A search space on a sweep, under a name.

    Attributes:
        base: the run that the sweep's recipe describes, before a space fills in its parameters.
        folder: where the study, plots and `best.yaml` go.
        remote: URL where checkpoints go; in the folder if None.
    """

    name: str
    space: SearchSpace
    sweep: SweepConfig
    base: RunConfig
    folder: Path
    remote: str | None = None

    @property
    def root(self) -> str:
        """Folder or URL of what trials write."""
        return self.remote or str(self.folder)

    def known_points(self) -> Sequence[Mapping[str, Any]]:
        """The points that come first, as they are known: those that the space lists, then the rest of a grid."""
        known = list(self.space.enqueued)
        grid = self.space.grid() if self.sweep.sampler.name == "grid" else []
        return [*known, *(point for point in grid if point not in known)]

    @cached_property
    def trials(self) -> int:
        """How many points are searched: as many as the sweep says, but no more than a grid has."""
        if self.sweep.sampler.name != "grid":
            return self.sweep.trials
        return min(self.sweep.trials, len(self.known_points()))

    def content(self, point: Mapping[str, Any], repetition: int = 0) -> dict[str, Any]:
        """Run content at a point of the space, trained for the so many-th time."""
        return self._placed(self.space.apply(self.sweep.run, point), repetition)

    def baseline(self, rule: str, repetition: int = 0) -> dict[str, Any]:
        """Run content of a reference rule, at the recipe that the space's trials share.

        What the recipe says of the coefficients of the space's rule, and of training alignment apart from the task, is
        left out.
        """
        shared = {k: v for k, v in self.space.fixed.items() if k.partition(".")[0] not in ("rule", *OF_ALIGNMENT)}
        run = {key: value for key, value in self.sweep.run.items() if key not in OF_ALIGNMENT}
        content = SearchSpace(name=rule, rule=rule, parameters={}, fixed=shared).apply(run, {})
        return self._placed(content, repetition)

    def _placed(self, content: dict[str, Any], repetition: int) -> dict[str, Any]:
        """The content on the device that a trial gets, which `auto` would find otherwise on another machine."""
        compute = dict(content.get("compute") or {})
        if compute.get("device", "auto") == "auto":
            compute["device"] = self.base.resources.device
        seed = content.get("seed", self.base.seed) + repetition
        return {**content, "seed": seed, "compute": compute}

    def epochs(self, point: Mapping[str, Any]) -> int:
        """How many epochs a training at a point has."""
        return int({**self.space.fixed, **point}.get("epochs", self.base.epochs))

    def checkpoints(self, label: str) -> str:
        """Where the checkpoints of a trial go."""
        return f"{self.root}/trials/{label}/{CHECKPOINTS}"

    def example(self) -> dict[str, Any]:
        """A point in the middle of the space, or near it."""
        point = self.space.example()
        if point is None:
            raise SweepError(f"no point of {self.space.name} was found that keeps its constraints")
        return point

    def config(self, point: Mapping[str, Any]) -> RunConfig:
        """The resolved run at a point of the space."""
        return parse_run(self.content(point))
