"""Plots of a sweep from MLflow's records."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from mlflow.entities import Run

from aln.space import Range, SearchSpace, format_value
from aln.tracking import Tracker

# How a trial ended: its mark's colour and shape, and what the legend calls it.
_ENDINGS = {
    "completed": ("#1f6f8b", "o", "completed"),
    "stopped": ("#9fb8c4", "o", "stopped early"),
    "diverged": ("#c1440e", "x", "diverged"),
    "failed": ("#7b3294", "x", "failed"),
    "timed out": ("#7b3294", "+", "timed out"),
}
_BASELINES = {"backprop": "#333333", "feedback": "#b07aa1"}
_OTHER_BASELINES = ("#59a14f", "#e0a100", "#4e79a7", "#9c755f")
_TWO_DECADES = 100
_JITTER = 0.12  # of the distance between two categories


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """The runs of one point or baseline, one for each seed, that have the objective."""

    label: str
    runs: Sequence[Run]

    @property
    def status(self) -> str:
        """How it ended: diverged if it did with any seed, else as the best of its runs."""
        statuses = [run.data.tags.get("status", "") for run in self.runs]
        return next((status for status in ("diverged", "completed", "stopped") if status in statuses), statuses[0])

    @property
    def first(self) -> Run:
        """The first of the runs that ended as the trial did."""
        return next(run for run in self.runs if run.data.tags.get("status", "") == self.status)

    @property
    def point(self) -> dict[str, Any]:
        point: dict[str, Any] = json.loads(self.first.data.tags["point"])
        return point

    def mean(self, metric: str, default: float = math.nan) -> float:
        """The metric's mean over the runs that ended as the trial did."""
        runs = [run for run in self.runs if run.data.tags.get("status", "") == self.status]
        return statistics.fmean(run.data.metrics.get(metric, default) for run in runs)


def _trials(runs: Sequence[Run], kind: str, metric: str) -> list[_Trial]:
    """The trials of a kind that have the metric, in the order in which they began."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.data.tags["kind"] == kind and metric in run.data.metrics:
            label, repetition = run.data.tags["trial"], run.data.tags.get("repetition", "0")
            found.setdefault(label.removesuffix(f"-s{repetition}"), []).append(run)
    return [_Trial(label=label, runs=group) for label, group in found.items()]


def draw_sweep(
    runs: Sequence[Run], tracker: Tracker, space: SearchSpace, metric: str, mode: str, folder: Path
) -> list[Path]:
    """Draws the plots of a sweep, whose trials are the MLflow runs given, into `folder`, and returns the files.

    A trial of several seeds has its mark at their mean, and a small dot for each of them.

    `history.png`: the objective trial by trial, and the best so far. `coefficients.png`: the objective against each
    searched parameter. `angles.png`: per layer, over the best trial's epochs, the angle between W and B, and that
    between the gradient of W and backprop's, where it has any.
    """
    searched = _trials(runs, "searched", metric)
    baselines = sorted(_trials(runs, "baseline", metric), key=lambda trial: trial.label)
    if not searched:
        return []
    best = _best(searched, metric, mode)
    figures = {
        "history": _history(searched, baselines, best, metric, mode),
        "coefficients": _coefficients(searched, baselines, best, space, metric),
    }
    if best is not None and (angles := _angles(tracker, best.first)) is not None:
        figures["angles"] = angles
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=140)
        plt.close(figure)
    return files


def _history(
    searched: Sequence[_Trial], baselines: Sequence[_Trial], best: _Trial | None, metric: str, mode: str
) -> Figure:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    searched = sorted(searched, key=lambda trial: int(trial.label))
    trials = [int(trial.label) for trial in searched]  # some may have no value
    _scatter(axes, trials, searched, best, metric)
    best_so_far: list[float] = []
    for trial in searched:
        candidates = [value for value in best_so_far[-1:] if not math.isnan(value)]
        candidates += [trial.mean(metric)] if trial.status == "completed" else []
        best_so_far.append((max if mode == "max" else min)(candidates) if candidates else math.nan)
    axes.step(trials, best_so_far, where="post", color=_ENDINGS["completed"][0], label="best so far")
    _reference_lines(axes, baselines, metric)
    axes.set(xlabel="trial", ylabel=_label(metric), title="Optimisation history")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)  # inside it covers trials
    return figure


def _coefficients(
    searched: Sequence[_Trial], baselines: Sequence[_Trial], best: _Trial | None, space: SearchSpace, metric: str
) -> Figure:
    keys = list(space.parameters)
    columns = min(4, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 3.4 * rows), sharey=True, squeeze=False, layout="constrained"
    )
    points = [trial.point for trial in searched]
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
        row[0].set_ylabel(_label(metric))
    # Of all panels together: a condition may keep some kinds of mark from the first.
    legend = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    order = [*(label for *_, label in _ENDINGS.values()), "best"]
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


def _best(searched: Sequence[_Trial], metric: str, mode: str) -> _Trial | None:
    """The completed trial that the sweep calls best: by the objective, and by validation loss among equals."""
    completed = [trial for trial in searched if trial.status == "completed"]
    sign = 1 if mode == "max" else -1

    def rank(trial: _Trial) -> tuple[float, float]:
        return sign * trial.mean(metric), -trial.mean("val_loss", math.inf)

    return max(completed, key=rank, default=None)


def _scatter(axes: Axes, places: Sequence[float], trials: Sequence[_Trial], best: _Trial | None, metric: str) -> None:
    """One mark a trial, by how it ended, and a star on the best; a dot for each of several seeds."""
    values = [trial.mean(metric) for trial in trials]
    for status, (colour, marker, label) in _ENDINGS.items():
        chosen = [i for i, trial in enumerate(trials) if trial.status == status]
        if chosen:
            x, y = [places[i] for i in chosen], [values[i] for i in chosen]
            axes.scatter(x, y, s=28, c=colour, marker=marker, label=label)
    seeds = [(place, run) for place, trial in zip(places, trials, strict=True) for run in trial.runs if trial.runs[1:]]
    if seeds:
        y = [run.data.metrics[metric] for _, run in seeds]
        axes.scatter([place for place, _ in seeds], y, s=6, c="#999999", marker="o", label="single seeds", zorder=1)
    for trial, place, value in zip(trials, places, values, strict=True):
        if trial is best:
            axes.scatter([place], [value], s=160, c="#f2b701", marker="*", edgecolors="#333333", zorder=3, label="best")


def _reference_lines(axes: Axes, baselines: Sequence[_Trial], metric: str) -> None:
    others = iter(_OTHER_BASELINES * len(baselines))
    for trial in baselines:
        colour = _BASELINES.get(trial.label) or next(others)
        axes.axhline(trial.mean(metric), color=colour, linestyle="--", linewidth=1, label=trial.label)


_LABELS = {
    "val_top1": "validation top-1 (%)",
    "val_top5": "validation top-5 (%)",
    "val_loss": "validation loss (nats)",
    "train_top1": "training top-1 (%)",
    "train_loss": "training loss (nats)",
    "train_seconds": "time of training (s)",
}


def _label(metric: str) -> str:
    return _LABELS.get(metric, f"{metric.replace('_', ' ')} (degrees)")
