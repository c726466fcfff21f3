"""The Pareto front of a sweep with several objectives: a configuration a point, and a plot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from aln.config import Objective, RunConfig
from aln.report.colours import EDGE, ENDINGS

FRONT = "pareto"  # the folder's name in that of a sweep, and the plot's in its plots


def write_front(folder: Path, configs: Mapping[str, RunConfig]) -> list[Path]:
    """Writes the configuration of each point of the front as `LABEL.yaml`, and removes those of points that are beaten.

    Args:
        folder: of the configurations.
        configs: by the points' labels.
    """
    folder.mkdir(exist_ok=True)
    files = [folder / f"{label}.yaml" for label in configs]
    for path, config in zip(files, configs.values(), strict=True):
        path.write_text(config.to_yaml(), encoding="utf-8")
    for path in set(folder.glob("*.yaml")) - set(files):
        path.unlink()
    return files


def draw_front(
    path: Path,
    objectives: Sequence[Objective],
    searched: Mapping[str, Sequence[float]],
    front: Collection[str],
    baselines: Mapping[str, Sequence[float]],
) -> None:
    """Draws every other objective over the first, a panel each: the front with its labels, what it beats, baselines.

    Args:
        searched, baselines: the objectives of each point, by its label, in their order.
        front: labels of the points on the front.
    """
    panels = len(objectives) - 1
    figure, grid = plt.subplots(1, panels, figsize=(1.5 + 4.5 * panels, 4), squeeze=False, layout="constrained")
    kinds = {
        "beaten": (
            ENDINGS["stopped"][0],
            "o",
            {label: values for label, values in searched.items() if label not in front},
        ),
        "Pareto front": (ENDINGS["completed"][0], "o", {label: searched[label] for label in front}),
        "baseline": (EDGE, "s", baselines),
    }
    for number, axes in enumerate(grid[0], start=1):
        for kind, (colour, marker, points) in kinds.items():
            x, y = ([values[place] for values in points.values()] for place in (0, number))
            axes.scatter(x, y, c=colour, marker=marker, s=28, label=kind)
            for label, place in zip(points, zip(x, y, strict=True), strict=True):
                if kind != "beaten":
                    axes.annotate(label, place, xytext=(4, 4), textcoords="offset points", fontsize=7)
        axes.set(xlabel=_named(objectives[0]), ylabel=_named(objectives[number]))
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=len(kinds), frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def _named(objective: Objective) -> str:
    return f"{objective.metric} ({objective.mode})"
