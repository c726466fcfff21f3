"""Plots, from a real embedded MLflow store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mlflow.entities import Run

from aln.config import Document, Objective, parse_run
from aln.report.plots import draw_sweep
from aln.space import parse_space
from aln.tracking import Tracker

PARAMETERS = {
    "rule.alpha": {"min": 1e-4, "max": 1e-1, "log": True},
    "rule.input_distribution": {"values": [None, "normal"]},
}
TOP1 = Objective.model_validate("val_top1")
SPACE = parse_space(Document({"rule": "information", "parameters": PARAMETERS}), {})


@pytest.fixture
def drawn(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures that are drawn, by the files' names."""
    figures: dict[str, Figure] = {}

    def keep(figure: Figure, path: Path, **options: Any) -> None:
        figures[path.stem] = figure
        path.touch()

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def log_trial(tracker: Tracker, epochs: list[dict[str, float]]) -> None:
    run = tracker.run("s/000", {"sweep": "s", "trial": "000", "kind": "searched"})
    run.tag(point='{"rule.alpha": 0.002, "rule.input_distribution": null}')
    run.describe(parse_run({"rule": "information"}))
    for epoch, metrics in enumerate(epochs, start=1):
        run.log({"val_top1": 50.0 + epoch, "epoch_seconds": 1.0, **metrics}, epoch)
    run.finish("completed")


def log_sweep(tracker: Tracker) -> None:
    """Two baselines, the slower one first, and four trials; 001 and 002 are equal but for their loss."""
    for rule, top1 in (("feedback", 60.0), ("backprop", 99.0)):
        run = tracker.run(rule, {"sweep": "s", "trial": rule, "kind": "baseline"})
        run.describe(parse_run({"rule": rule}))
        run.log({"val_top1": top1, "val_loss": 0.1}, 1)
        run.finish("completed")
    endings = [("stopped", 99.5, 0.1), ("completed", 90.0, 0.3), ("completed", 90.0, 0.2), ("diverged", 0.0, 9.0)]
    for number, (status, top1, loss) in enumerate(endings):
        run = tracker.run(f"00{number}", {"sweep": "s", "trial": f"00{number}", "kind": "searched"})
        rule = {
            "name": "information",
            "alpha": 10.0 ** -(number + 1),
            "input_distribution": [None, "normal"][number % 2],
        }
        run.tag(point=json.dumps({"rule.alpha": rule["alpha"], "rule.input_distribution": rule["input_distribution"]}))
        run.describe(parse_run({"rule": rule}))
        run.log({"val_top1": top1, "val_loss": loss}, 1)
        run.finish(status)


def marks(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """The points of each kind of mark."""
    found = {}
    for collection in axes.collections:
        points = np.asarray(collection.get_offsets())
        found[str(collection.get_label())] = [(round(float(x), 9), float(y)) for x, y in points]
    return found


def test_marks_say_how_trials_ended_and_which_is_best(workplace: Path, drawn: dict[str, Figure]) -> None:
    tracker = Tracker("test")
    log_sweep(tracker)
    draw(tracker, workplace / "plots")
    assert marks(drawn["history"].axes[0]) == {
        "completed": [(1, 90), (2, 90)],
        "stopped early": [(0, 99.5)],
        "diverged": [(3, 0)],
        "best": [(2, 90)],  # the smaller loss among equals; what was stopped early is not ranked
    }
    alpha, noise = drawn["coefficients"].axes
    assert marks(alpha)["best"] == [(1e-3, 90)]
    assert alpha.get_xscale() == "log"
    assert [label.get_text() for label in noise.get_xticklabels()] == ["null", "normal"]
    assert [round(x) for x, _ in marks(noise)["completed"]] == [1, 0]


def test_no_legend_covers_trials(workplace: Path, drawn: dict[str, Figure]) -> None:
    tracker = Tracker("test")
    log_sweep(tracker)
    draw(tracker, workplace / "plots")
    for figure in drawn.values():
        figure.draw_without_rendering()
        legends = [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]
        assert legends
        for legend in legends:
            assert not any(legend.get_window_extent().overlaps(axes.bbox) for axes in figure.axes)


def test_baselines_have_their_own_colours_whichever_ended_first(workplace: Path, drawn: dict[str, Figure]) -> None:
    tracker = Tracker("test")
    log_sweep(tracker)
    draw(tracker, workplace / "plots")
    for axes in (drawn["history"].axes[0], *drawn["coefficients"].axes):
        drawn_as = {line.get_label(): (line.get_color(), line.get_ydata()[0]) for line in axes.lines}  # type: ignore[index]
        assert drawn_as["backprop"] == ("#333333", 99)
        assert drawn_as["feedback"] == ("#b07aa1", 60)


def trials(tracker: Tracker) -> list[Run]:
    """The trials that were logged, in order."""
    assert tracker.drain() == ""
    runs = tracker.client.search_runs([tracker.experiment_id], order_by=["attributes.start_time ASC"])
    return list(runs)


def test_values_of_every_kind_have_a_place(workplace: Path, drawn: dict[str, Figure]) -> None:
    """Whole numbers for a real setting, sections, lists: what is searched stands on the run as it was searched."""
    parameters = {
        "optimizer.lr": {"values": [1, 0.1]},
        "model": {"values": ["mlp", "resnet8"]},
        "schedule.drops": {"values": [[3, 6], [5]]},
    }
    run_content = {"schedule": {"name": "step"}}
    space = parse_space(Document({"rule": "information", "parameters": parameters}), run_content)
    tracker = Tracker("test")
    point = {"optimizer.lr": 1, "model": "resnet8", "schedule.drops": [5]}
    run = tracker.run("000", {"sweep": "s", "trial": "000", "kind": "searched"})
    run.tag(point=json.dumps(point))
    run.describe(parse_run(space.apply(run_content, point)))
    run.log({"val_top1": 90.0, "val_loss": 0.1}, 1)
    run.finish("completed")
    draw_sweep(trials(tracker), tracker, space, TOP1, workplace / "plots")
    places = [round(marks(axes)["completed"][0][0]) for axes in drawn["coefficients"].axes]
    assert places == [0, 1, 1]


def draw(tracker: Tracker, folder: Path) -> list[str]:
    files = draw_sweep(trials(tracker), tracker, SPACE, TOP1, folder)
    return [file.name for file in files]


def lines(figure: Figure) -> list[dict[str, list[tuple[float, float]]]]:
    """Per panel, the points of each labelled line."""
    return [
        {
            str(line.get_label()): [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]
            for line in axes.lines
            if not str(line.get_label()).startswith("_")
        }
        for axes in figure.axes
    ]


def test_angles_of_weights_and_gradients_are_two_panels(workplace: Path, drawn: dict[str, Figure]) -> None:
    tracker = Tracker("test")
    weights = {"angle/stem": 80.0, "angle/head": 70.0}
    log_trial(tracker, [weights, {**weights, "angle/head": 60.0, "gradient_angle/stem": 40.0, "error_angle/head": 5.0}])
    assert draw(tracker, workplace / "plots") == ["history.png", "coefficients.png", "angles.png"]
    left, right = lines(drawn["angles"])
    assert left == {"stem": [(1, 80), (2, 80)], "head": [(1, 70), (2, 60)]}
    assert right == {"stem": [(2, 40)]}
    (first, second) = drawn["angles"].axes
    colours = {line.get_color() for axes in (first, second) for line in axes.lines if line.get_label() == "stem"}
    assert len(colours) == 1
    assert plt.get_fignums() == []


def test_without_gradient_angles_there_is_one_panel(workplace: Path, drawn: dict[str, Figure]) -> None:
    tracker = Tracker("test")
    log_trial(tracker, [{"angle/stem": 80.0}])
    draw(tracker, workplace / "plots")
    assert lines(drawn["angles"]) == [{"stem": [(1, 80)]}]


def test_without_angles_there_is_no_such_plot(workplace: Path, drawn: dict[str, Figure]) -> None:
    tracker = Tracker("test")
    log_trial(tracker, [{}])
    assert draw(tracker, workplace / "plots") == ["history.png", "coefficients.png"]


def test_a_sweep_without_a_usable_trial_has_no_plots(workplace: Path) -> None:
    assert draw_sweep([], Tracker("test"), SPACE, TOP1, workplace) == []
