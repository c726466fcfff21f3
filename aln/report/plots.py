"""The plots that a sweep leaves in its folder and in MLflow, drawn from MLflow's records."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from mlflow.entities import Run

from aln.config import Objective
from aln.records import Point, best_point
from aln.report.colours import BEST, EDGE, ENDINGS, SINGLE_SEED, baseline_colours
from aln.report.runs import axis_title, points_of
from aln.space import Range, SearchSpace, format_value
from aln.tracking import Tracker

_MARKERS = {"completed": "o", "stopped": "o", "diverged": "x", "failed": "x", "timed out": "+"}
_TWO_DECADES = 100
_JITTER = 0.12  # of the distance between two categories


def draw_sweep(
    runs: Sequence[Run], tracker: Tracker, space: SearchSpace, objective: Objective, folder: Path
) -> list[Path]:
    """Draws the plots of a sweep, whose trials are the MLflow runs given, into `folder`, and returns the files.

    A trial of several seeds has its mark at their mean, and a small dot for each of them.

    `history.png`: the objective trial by trial, and the best so far. `coefficients.png`: the objective against each
    searched parameter. `angles.png`: per layer, over the best trial's epochs, the angle between W and B, and that
    between the gradient of W and backprop's, where it has any.
    """
    metric = objective.metric
    points = [point for point in points_of(runs) if not math.isnan(point.shown(metric))]
    searched = [point for point in points if not point.baseline]
    baselines = sorted((point for point in points if point.baseline), key=lambda point: point.label)
    if not searched:
        return []
    best = best_point(searched, objective)
    figures = {
        "history": _history(searched, baselines, best, objective),
        "coefficients": _coefficients(searched, baselines, best, space, metric),
    }
    if best is not None:
        (run,) = [run for run in runs if run.data.tags["trial"] == best.usable[0].label]
        if (angles := _angles(tracker, run)) is not None:
            figures["angles"] = angles
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=140)
        plt.close(figure)
    return files


def _history(searched: Sequence[Point], baselines: Sequence[Point], best: Point | None, objective: Objective) -> Figure:
    metric = objective.metric
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    searched = sorted(searched, key=lambda trial: int(trial.label))
    trials = [int(trial.label) for trial in searched]  # some may have no value
    _scatter(axes, trials, searched, best, metric)
    best_so_far: list[float] = []
    for trial in searched:
        candidates = [value for value in best_so_far[-1:] if not math.isnan(value)]
        candidates += [trial.shown(metric)] if trial.status == "completed" else []
        best_so_far.append((max if objective.mode == "max" else min)(candidates) if candidates else math.nan)
    axes.step(trials, best_so_far, where="post", color=ENDINGS["completed"][0], label="best so far")
    _reference_lines(axes, baselines, metric)
    axes.set(xlabel="trial", ylabel=axis_title(metric), title="Optimisation history")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)  # inside it covers trials
    return figure


def _coefficients(
    searched: Sequence[Point], baselines: Sequence[Point], best: Point | None, space: SearchSpace, metric: str
) -> Figure:
    keys = list(space.parameters)
    columns = min(4, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 3.4 * rows), sharey=True, squeeze=False, layout="constrained"
    )
    points = [trial.values for trial in searched]
    for axes, key in zip(grid.flat, keys, strict=False):
        parameter = space.parameters[key]
        there = [i for i, point in enumerate(points) if key in point]  # a condition may keep it away
        found = [points[i][key] for i in there]
        if isinstance(parameter, Range):
            places = [float(value) for value in found]
            axes.set_xscale("log" if parameter.log else "linear")
            low, high = float(parameter.min), float(parameter.max)  # the whole range, wherever the trials are
            margin = (high / low) ** 0.05 if parameter.log else 0.05 * (high - low)
            axes.set_xlim(*((low / margin, high * margin) if parameter.log else (low - margin, high + margin)))
            if parameter.log and high / low >= _TWO_DECADES:  # labels between powers of ten overlap
                axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            # Side by side within a category, in the order of the trials, so that equal values stay apart.
            known = [json.dumps(value) for value in parameter.values]
            spread = [_JITTER * (2 * (i % 5) / 4 - 1) for i in range(len(found))]
            places = [known.index(json.dumps(value)) + shift for value, shift in zip(found, spread, strict=True)]
            axes.set_xticks(range(len(known)), [format_value(value) for value in parameter.values])
            axes.set_xlim(-0.5, len(known) - 0.5)
        _scatter(axes, places, [searched[i] for i in there], best, metric)
        _reference_lines(axes, baselines, metric)
        axes.set_xlabel(key if len(there) == len(searched) else f"{key} (of {len(there)} trials)")
    for axes in list(grid.flat)[len(keys) :]:
        axes.remove()
    for row in grid:
        row[0].set_ylabel(axis_title(metric))
    # Of all panels together: a condition may keep some kinds of mark from the first.
    legend = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    order = [*(label for _, label in ENDINGS.values()), "best"]
    labels = sorted(legend, key=lambda label: order.index(label) if label in order else len(order))
    handles = [legend[label] for label in labels]
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8, frameon=False)
    return figure


_PANELS = {"angle": "angle between W and B (degrees)", "gradient_angle": "angle between dW and backprop's (degrees)"}


def _angles(tracker: Tracker, run: Run) -> Figure | None:
    layers = {metric: [k for k in run.data.metrics if k.startswith(f"{metric}/")] for metric in _PANELS}
    panels = {metric: keys for metric, keys in layers.items() if keys}
    if not panels:
        return None
    names = list(dict.fromkeys(key.partition("/")[2] for keys in panels.values() for key in keys))
    colours = {name: plt.get_cmap("viridis")(i / max(1, len(names) - 1)) for i, name in enumerate(names)}
    size = (2 + 5 * len(panels), 4)
    figure, grid = plt.subplots(
        1, len(panels), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (metric, keys) in zip(grid[0], panels.items(), strict=True):
        for key in keys:
            points = sorted((m.step, m.value) for m in tracker.client.get_metric_history(run.info.run_id, key))
            steps, degrees = zip(*points, strict=True)
            name = key.partition("/")[2]
            axes.plot(steps, degrees, marker=".", color=colours[name], label=name)
        axes.axhline(90, color="#999999", linestyle=":", linewidth=1)
        axes.set(xlabel="epoch", ylabel=_PANELS[metric])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(f"Alignment of {run.info.run_name}")
    handles = {label: h for axes in grid[0] for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend([handles[name] for name in names], names, loc="outside right center", fontsize=7, frameon=False)
    return figure


def _scatter(axes: Axes, places: Sequence[float], trials: Sequence[Point], best: Point | None, metric: str) -> None:
    """One mark a trial, by how it ended, and a star on the best; a dot for each of several seeds."""
    values = [trial.shown(metric) for trial in trials]
    for status, (colour, label) in ENDINGS.items():
        chosen = [i for i, trial in enumerate(trials) if trial.status == status]
        if chosen:
            x, y = [places[i] for i in chosen], [values[i] for i in chosen]
            axes.scatter(x, y, s=28, c=colour, marker=_MARKERS[status], label=label)
    repeated = [(place, point) for place, point in zip(places, trials, strict=True) if point.records[1:]]
    seeds = [(place, record) for place, point in repeated for record in point.records if metric in record.metrics]
    if seeds:
        y = [record.metrics[metric] for _, record in seeds]
        axes.scatter([place for place, _ in seeds], y, s=6, c=SINGLE_SEED, marker="o", label="single seeds", zorder=1)
    for trial, place, value in zip(trials, places, values, strict=True):
        if trial is best:
            axes.scatter([place], [value], s=160, c=BEST, marker="*", edgecolors=EDGE, zorder=3, label="best")


def _reference_lines(axes: Axes, baselines: Sequence[Point], metric: str) -> None:
    colours = baseline_colours(trial.label for trial in baselines)
    for trial in baselines:
        axes.axhline(trial.shown(metric), color=colours[trial.label], linestyle="--", linewidth=1, label=trial.label)
