"""What a sweep will do, settled before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aln.checkpoint_folder import CHECKPOINTS
from aln.cluster import fitting
from aln.config import OF_ALIGNMENT, Resources, RunConfig, SweepConfig, parse_run
from aln.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """A search space on a sweep, under a name.

    Attributes:
        base: the run that the sweep's recipe describes, before a space fills in its parameters.
        folder: where checkpoints, plots and `best.yaml` go.
    """

    name: str
    space: SearchSpace
    sweep: SweepConfig
    base: RunConfig
    folder: Path

    def baselines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and run content of each reference rule, at the recipe that the space's trials share.

        What the recipe says of the coefficients of the space's rule, and of training alignment apart from the task, is
        left out.
        """
        shared = {k: v for k, v in self.space.fixed.items() if k.partition(".")[0] not in ("rule", *OF_ALIGNMENT)}
        run = {key: value for key, value in self.sweep.run.items() if key not in OF_ALIGNMENT}
        for rule in self.sweep.baselines:
            content = SearchSpace(name=rule, rule=rule, parameters={}, fixed=shared).apply(run, {})
            yield rule, self._placed(content)

    def content(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Run content at a point of the space."""
        return self._placed(self.space.apply(self.sweep.run, point))

    def _placed(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content on the device that a trial gets, which `auto` would find otherwise on another machine."""
        compute = dict(content.get("compute") or {})
        if compute.get("device", "auto") == "auto":
            compute["device"] = "cuda" if self.base.resources.gpus else "cpu"
        return {**content, "compute": compute}

    def checkpoints(self, label: str) -> str:
        """Where the checkpoints of a trial go."""
        return str(self.folder / "trials" / label / CHECKPOINTS)

    def example(self) -> dict[str, Any]:
        """A point in the middle of the space."""
        return {key: parameter.middle for key, parameter in self.space.parameters.items()}

    def config(self, point: Mapping[str, Any]) -> RunConfig:
        """The resolved run at a point of the space."""
        return parse_run(self.content(point))


def slots(resources: Resources, cpus: float, gpus: float) -> int:
    """How many such trials fit at once on so many CPU cores and GPUs."""
    return fitting(resources.cpus, resources.gpus, cpus, gpus)
