"""The picture of a study's answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from aln.study.answer import TITLES, Cell
from aln.study.plan import StudyPlan

_SPREAD = 0.06  # between rules at one place, so that bars of deviation do not cover each other


def draw_answer(study: StudyPlan, found: Sequence[Cell], path: Path) -> None:
    """Draws a line for each rule over the stage's sweeps, or a mark for each rule if there is one sweep alone."""
    columns = list(dict.fromkeys(cell.column for cell in found))
    rows = list(dict.fromkeys(cell.row for cell in found))
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    colours = plt.get_cmap("tab10" if len(rows) <= 10 else "tab20")
    for index, row in enumerate(rows):
        mine = [cell for cell in found if cell.row == row]
        shift = _SPREAD * (index - (len(rows) - 1) / 2) if len(columns) > 1 else 0.0
        places = [columns.index(cell.column) + shift if len(columns) > 1 else float(index) for cell in mine]
        axes.errorbar(
            places,
            [cell.mean for cell in mine],
            yerr=[cell.deviation for cell in mine],
            color="#333333" if row == "backprop" else colours(index % 20),
            linestyle="--" if row == "backprop" else "-",
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1,
            label=row,
        )
    if len(columns) > 1:
        axes.set_xticks(range(len(columns)), columns)
        axes.set_xlabel(", ".join(_keys(study)))
        figure.legend(loc="outside right center", fontsize=8, frameon=False)
    else:
        axes.set_xticks(range(len(rows)), rows, rotation=45, ha="right")
    axes.set_ylabel(TITLES[study.answer.measure].partition(",")[0])
    axes.set_title(study.question, fontsize=10)
    axes.grid(axis="y", color="#dddddd", linewidth=0.5)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def _keys(study: StudyPlan) -> list[str]:
    """What the answering stage's sweeps differ in."""
    stage = next(stage for stage in study.stages if stage.name == study.answer.stage)
    return [key.removeprefix("run.") for key in stage.sweeps[0].values]
