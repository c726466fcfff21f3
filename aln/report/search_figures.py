"""What the search did, in plots of plotly: its course, and the objective over the space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.visualization import plot_contour, plot_parallel_coordinate

from aln.records import Point, pareto_front
from aln.report.colours import BEST, EDGE, ENDINGS, SINGLE_SEED, baseline_colours
from aln.report.confidence import wilson
from aln.report.runs import TrackedSweep, axis_title
from aln.space import Parameter, Range, format_point, format_value
from aln.space.parameters import frozen, listed
from aln.tracking import Reader

_BINS = 6
_DECADES = 2  # from here on ticks at powers of ten are enough
_CONTOURS_OF = 3  # coefficients, the most important ones
_FEWEST_OF_CONTOUR = 4  # completed points


def history(sweep: TrackedSweep) -> go.Figure:
    """The objective trial by trial, the best so far, and the baselines as lines."""
    metric, mode = sweep.objective.metric, sweep.objective.mode
    figure = go.Figure()
    places = {point.label: int(point.label) for point in sweep.searched}
    _add_marks(figure, sweep, places)
    trials: list[int] = []
    best_so_far: list[float] = []
    for point in sweep.searched:
        value = sweep.value(point) if point.status == "completed" else None
        if value is not None:
            best_so_far.append((max if mode == "max" else min)([value, *best_so_far[-1:]]))
            trials.append(places[point.label])
    if trials:
        last = max(places.values())
        figure.add_scatter(
            x=[*trials, last],
            y=[*best_so_far, best_so_far[-1]],
            mode="lines",
            line={"shape": "hv", "color": ENDINGS["completed"][0]},
            name="best so far",
        )
    _add_baselines(figure, sweep)
    return figure.update_layout(xaxis_title="trial", yaxis_title=axis_title(metric))


def slices(sweep: TrackedSweep) -> list[go.Figure]:
    """The objective against each searched parameter, over its whole range."""
    figures = []
    for key, parameter in sweep.space.parameters.items():
        figure = go.Figure()
        there = [point for point in sweep.searched if key in point.values]  # a condition may keep it away
        _add_marks(figure, sweep, {point.label: _place(parameter, point.values[key]) for point in there})
        _add_baselines(figure, sweep, over=_ends(parameter))
        some = "" if len(there) == len(sweep.searched) else f" (of {len(there)} trials)"
        figure.update_layout(xaxis=_axis(parameter), yaxis_title=axis_title(sweep.objective.metric))
        figures.append(figure.update_xaxes(title=key + some))
    return figures


def diverged_shares(sweep: TrackedSweep) -> list[go.Figure]:
    """Share of diverged trials in each part of each parameter's range, with Wilson's intervals; none if none did."""
    trained = [point for point in sweep.searched if point.status in ("completed", "stopped", "diverged")]
    if not any(point.status == "diverged" for point in trained):
        return []
    figures = []
    for key, parameter in sweep.space.parameters.items():
        bins = _binned(parameter, [point for point in trained if key in point.values], key)
        filled = {name: points for name, points in bins.items() if points}
        counts = [(sum(point.status == "diverged" for point in points), len(points)) for points in filled.values()]
        ends = [wilson(hits, of) for hits, of in counts]
        shares = [100 * hits / of for hits, of in counts]
        figure = go.Figure(
            go.Bar(
                x=list(filled),
                y=shares,
                marker_color=ENDINGS["diverged"][0],
                customdata=[f"{hits} of {of}" for hits, of in counts],
                hovertemplate="%{x}: %{customdata} trials<extra></extra>",
                error_y={
                    "array": [100 * high - share for share, (_, high) in zip(shares, ends, strict=True)],
                    "arrayminus": [share - 100 * low for share, (low, _) in zip(shares, ends, strict=True)],
                    "thickness": 1,
                },
            )
        )
        figure.update_xaxes(title=key, type="category", categoryorder="array", categoryarray=list(bins))
        figures.append(figure.update_yaxes(title="diverged (%)", range=[0, 105]))
    return figures


def contours(sweep: TrackedSweep, study: optuna.Study, important: Sequence[str]) -> list[go.Figure]:
    """The objective over pairs of the coefficients that matter most, between the completed points."""
    figures = []
    for pair in combinations(important[:_CONTOURS_OF], 2):
        both = [trial for trial in study.trials if all(key in trial.params for key in pair)]
        differing = all(len({str(trial.params[key]) for trial in both}) > 1 for key in pair)
        if len(both) >= _FEWEST_OF_CONTOUR and differing:
            title = axis_title(sweep.objective.metric)
            figures.append(plot_contour(study, list(pair), target=_first_value, target_name=title))
    for figure in figures:
        darker_is_better = {"reversescale": sweep.objective.mode == "min"}
        figure.update_traces(**darker_is_better, selector={"type": "contour"})
        figure.update_layout(title=None)
    return figures


def parallel_coordinates(sweep: TrackedSweep, study: optuna.Study) -> list[go.Figure]:
    """A line a completed point across all searched parameters; none without such points."""
    if not study.trials:
        return []
    figure: go.Figure = plot_parallel_coordinate(study, target_name=axis_title(sweep.objective.metric))
    # The first axis's name is left out where there is no room; the whole is scrolled where it does not fit.
    return [figure.update_layout(title=None, margin={"l": 70}, meta="wide")]


def importance_bars(shares: dict[str, float]) -> go.Figure:
    """Each coefficient's share, the largest on top."""
    keys = list(shares)[::-1]
    bars = go.Bar(x=[shares[key] for key in keys], y=keys, orientation="h", marker_color=ENDINGS["completed"][0])
    return go.Figure(bars).update_layout(xaxis_title="share of importance", height=140 + 28 * len(keys))


def fronts(sweep: TrackedSweep) -> list[go.Figure]:
    """The first objective against each other one, with the points that no other beats in all of them."""
    objectives = sweep.config.objectives
    front = {point.label for point in pareto_front(sweep.searched, objectives)}
    figures = []
    for other in objectives[1:]:
        figure = go.Figure()
        for name, colour, chosen in (("dominated", SINGLE_SEED, False), ("Pareto front", BEST, True)):
            points = [p for p in sweep.searched if p.objectives(objectives) and (p.label in front) is chosen]
            figure.add_scatter(
                x=[point.mean(objectives[0].metric) for point in points],
                y=[point.mean(other.metric) for point in points],
                mode="markers",
                marker={"color": colour, "size": 10 if chosen else 7, "line": {"width": int(chosen), "color": EDGE}},
                name=name,
                text=[_said(sweep, point) for point in points],
                hovertemplate="%{text}<extra></extra>",
            )
        figures.append(
            figure.update_layout(xaxis_title=axis_title(objectives[0].metric), yaxis_title=axis_title(other.metric))
        )
    return figures


def curves(sweep: TrackedSweep, reader: Reader) -> list[go.Figure]:
    """Validation top-1 against the epoch, of every training; those that were stopped or diverged end early."""
    figure, named = go.Figure(), set[str]()
    colours = baseline_colours(point.label for point in sweep.baselines)
    for point in (*sweep.searched, *sweep.baselines):
        for record in point.records:
            steps = reader.history(sweep.runs[record.label], "val_top1")
            if not steps:
                continue
            colour, name = ENDINGS.get(record.status, (SINGLE_SEED, record.status))
            if point.baseline:
                colour, name = colours[point.label], point.label
            figure.add_scatter(
                x=[epoch for epoch, _ in steps],
                y=[value for _, value in steps],
                mode="lines+markers",
                marker={"size": 4},
                line={"color": colour, "width": 1.5, "dash": "dash" if point.baseline else "solid"},
                name=name,
                legendgroup=name,
                showlegend=name not in named,
                text=[f"{record.label}: {record.status}"] * len(steps),
                hovertemplate="%{text}, epoch %{x}: %{y:.2f}<extra></extra>",
            )
            named.add(name)
    figure.update_layout(xaxis_title="epoch", yaxis_title=axis_title("val_top1"))
    return [figure] if named else []


def _first_value(trial: optuna.trial.FrozenTrial) -> float:
    return float(trial.values[0])


def _said(sweep: TrackedSweep, point: Point) -> str:
    """What hovering over a point tells."""
    value = point.shown(sweep.objective.metric)
    settings = format_point(frozen(point.values)).replace(" ", "<br>")
    return f"{point.label}: {point.status}<br>{sweep.objective.metric} {value:.4g}<br>{settings}"


def _add_marks(figure: go.Figure, sweep: TrackedSweep, places: Mapping[str, float]) -> None:
    """One mark a point at its place on the x axis, by how it ended; a star on the best."""
    metric = sweep.objective.metric
    shown = [p for p in sweep.searched if p.label in places and not math.isnan(p.shown(metric))]
    best = sweep.good[0] if sweep.good else None
    groups = [(name, colour, 8, [p for p in shown if p.status == status]) for status, (colour, name) in ENDINGS.items()]
    groups.append(("going on", SINGLE_SEED, 8, [p for p in shown if p.status not in ENDINGS]))
    groups.append(("best", BEST, 16, [p for p in shown if p is best]))
    for name, colour, size, points in groups:
        if points:
            symbol = "star" if name == "best" else "x" if name in ("diverged", "failed", "timed out") else "circle"
            figure.add_scatter(
                x=[places[point.label] for point in points],
                y=[point.shown(metric) for point in points],
                mode="markers",
                marker={"color": colour, "size": size, "symbol": symbol, "line": {"width": 0.5, "color": EDGE}},
                name=name,
                text=[_said(sweep, point) for point in points],
                hovertemplate="%{text}<extra></extra>",
            )


def _add_baselines(figure: go.Figure, sweep: TrackedSweep, over: Sequence[float] | None = None) -> None:
    """A dashed line for each baseline, over all trials or over a range."""
    ends = over or [0, max([int(point.label) for point in sweep.searched], default=1)]
    colours = baseline_colours(point.label for point in sweep.baselines)
    for point in sweep.baselines:
        value = point.shown(sweep.objective.metric)
        if not math.isnan(value):
            line = {"color": colours[point.label], "dash": "dash", "width": 1.5}
            figure.add_scatter(x=list(ends), y=[value, value], mode="lines", line=line, name=point.label)


def _place(parameter: Parameter, value: Any) -> float:
    """Where on its axis a value stands: itself, or its number among those listed."""
    if isinstance(parameter, Range):
        return float(value)
    return next(float(i) for i, known in enumerate(parameter.values) if listed(frozen(value), (known,)))


def _ends(parameter: Parameter) -> list[float]:
    if isinstance(parameter, Range):
        return [float(parameter.min), float(parameter.max)]
    return [-0.5, len(parameter.values) - 0.5]


def _axis(parameter: Parameter) -> dict[str, Any]:
    low, high = _ends(parameter)
    if not isinstance(parameter, Range):
        names = [format_value(value) for value in parameter.values]
        return {"tickvals": list(range(len(names))), "ticktext": names, "range": [low, high]}
    if parameter.log:
        low, high = math.log10(low), math.log10(high)
    margin = 0.05 * (high - low)
    axis = {"type": "log" if parameter.log else "linear", "range": [low - margin, high + margin], "exponentformat": "e"}
    return {**axis, "dtick": 1} if parameter.log and high - low >= _DECADES else axis


def _binned(parameter: Parameter, points: Sequence[Point], key: str) -> dict[str, list[Point]]:
    """The points by the part of the range, or the value, that they have."""
    if not isinstance(parameter, Range):
        bins: dict[str, list[Point]] = {format_value(value): [] for value in parameter.values}
        for point in points:
            bins[format_value(parameter.values[int(_place(parameter, point.values[key]))])].append(point)
        return bins
    scale, back = (math.log10, lambda x: 10.0**x) if parameter.log else (float, float)
    low, high = scale(parameter.min), scale(parameter.max)
    width = (high - low) / _BINS or 1.0
    edges = [back(low + i * width) for i in range(_BINS + 1)]
    digits = next((n for n in range(2, 16) if len({f"{edge:.{n}g}" for edge in edges}) == len(edges)), 16)
    names = [f"{edges[i]:.{digits}g} – {edges[i + 1]:.{digits}g}" for i in range(_BINS)]
    bins = {name: [] for name in names}
    for point in points:
        bins[names[min(_BINS - 1, max(0, int((scale(point.values[key]) - low) / width)))]].append(point)
    return bins
