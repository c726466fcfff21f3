"""The Pareto front's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from aln.config import Objective, parse_run
from aln.report.pareto import draw_front, write_front

THREE = [Objective.model_validate(written) for written in ("val_top1 max", "train_seconds min", "val_loss min")]


def test_points_that_are_beaten_lose_their_file(tmp_path: Path, small_run: dict[str, Any]) -> None:
    config, folder = parse_run(small_run), tmp_path / "pareto"
    write_front(folder, {"000": config, "001": config})
    files = write_front(folder, {"001": config, "004": config})
    assert files == [folder / "001.yaml", folder / "004.yaml"]
    assert sorted(folder.iterdir()) == files


def test_each_further_objective_has_a_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: figures.append(figure))
    searched = {"000": [90.0, 3.0, 0.5], "001": [80.0, 2.0, 0.7], "002": [70.0, 4.0, 0.9]}
    draw_front(tmp_path / "plots/pareto.png", THREE, searched, ["000", "001"], {"backprop": [95.0, 1.0, 0.1]})
    (figure,) = figures
    left, right = figure.axes
    assert [axes.get_ylabel() for axes in (left, right)] == ["train_seconds (min)", "val_loss (min)"]
    marks = {c.get_label(): [tuple(map(float, xy)) for xy in c.get_offsets()] for c in right.collections}
    assert marks == {
        "beaten": [(70, 0.9)],
        "Pareto front": [(90, 0.5), (80, 0.7)],
        "baseline": [(95, 0.1)],
    }
    assert [text.get_text() for text in right.texts] == ["000", "001", "backprop"]
