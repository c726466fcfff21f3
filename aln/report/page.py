"""One page of what sweeps found: whole in one file, so that it can be sent and kept."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

import aln
from aln.report.commands import train_command
from aln.report.comparison import contender, contenders, relative_cost, side_by_side
from aln.report.layer_figures import heat_maps
from aln.report.reading import READING
from aln.report.runs import TrackedSweep, axis_title, read_sweeps
from aln.report.search_figures import (
    contours,
    curves,
    diverged_shares,
    fronts,
    history,
    importance_bars,
    parallel_coordinates,
    slices,
)
from aln.report.study import FEWEST, importances, rebuilt_study
from aln.space import format_parameter, format_point, format_value, format_when
from aln.space.parameters import frozen
from aln.storage.whole import write_whole
from aln.tracking import Reader

_TEMPLATE = "page.html.jinja"
_BEST = 5  # points that are listed with their commands
_CONFIG = {"responsive": True, "displayModeBar": False}
_MARGIN = {"l": 10, "r": 10, "t": 30, "b": 10}  # pixels; axes make more room for their names
_LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "autosize": True,
    "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
    "font": {"family": "system-ui, sans-serif", "size": 12},
    "title": {"font": {"size": 13}},
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A heading, how to read what follows, and the plots; `missing` says in one line why there are none."""

    title: str
    reading: str
    figures: Sequence[go.Figure]
    missing: str = ""


def write_report(sweeps: Sequence[str], out: Path, *, title: str | None = None) -> Path:
    """Writes a page of these sweeps, as MLflow has them, to `out`; returns its path.

    Raises `ConfigError` naming sweeps that MLflow does not know and those nearest to them, `AlnError` if MLflow cannot
    be read, `StorageError` if the file cannot be written.
    """
    reader = Reader()
    found = read_sweeps(sweeps, reader)
    write_whole(out, [render(found, reader, title).encode()])
    return out


def render(sweeps: Sequence[TrackedSweep], reader: Reader, title: str | None = None) -> str:
    """The page's HTML."""
    numbers = itertools.count(1)

    def drawn(figure: go.Figure) -> Markup:
        """The figure as HTML; text in it cannot leave its script: plotly escapes it."""
        margin = {**_MARGIN, **figure.layout.margin.to_plotly_json()}
        figure.update_layout(margin=margin, **_LAYOUT)
        figure.update_xaxes(automargin=True).update_yaxes(automargin=True)
        height = figure.layout.height or 340
        return Markup(  # noqa: S704
            figure.to_html(
                full_html=False,
                include_plotlyjs=False,
                config=_CONFIG,
                div_id=f"plot-{next(numbers)}",
                default_height=f"{height}px",
            )
        )

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"drawn": drawn, "number": _number, "moment": _moment}
    environment.filters |= {"over": format_parameter, "under": format_when, "short": format_value}
    template = environment.from_string((resources.files("aln.report") / _TEMPLATE).read_text(encoding="utf-8"))
    chosen = contenders(sweeps)
    metrics = {sweep.objective.metric for sweep in sweeps}
    return template.render(
        title=title or f"Report on {', '.join(sweep.name for sweep in sweeps)}",
        version=aln.__version__,
        written=datetime.now(UTC),
        plotly=Markup(get_plotlyjs()),  # noqa: S704
        sweeps=[_section(sweep, reader) for sweep in sweeps],
        contenders=[(one, relative_cost(one, chosen)) for one in chosen],
        side_by_side=side_by_side(chosen, metrics.pop()) if len(metrics) == 1 and len(chosen) > 1 else None,
    )


def _section(sweep: TrackedSweep, reader: Reader) -> dict[str, Any]:
    """What the template says of one sweep."""
    tags = sweep.parent.data.tags
    ended = Counter(point.status for point in sweep.searched)
    return {
        "sweep": sweep,
        "metric": axis_title(sweep.objective.metric),
        "versions": json.loads(tags.get("versions", "{}")),
        "commit": tags.get("mlflow.source.git.commit", ""),
        "ended": ended,
        "planned": sweep.config.trials,
        "status": "running" if sweep.parent.info.status == "RUNNING" else tags.get("status", ""),
        "best": [_listed(sweep, rank) for rank in range(min(_BEST, len(sweep.good)))],
        "parts": list(_parts(sweep, reader)),
    }


def _listed(sweep: TrackedSweep, rank: int) -> dict[str, Any]:
    point = sweep.good[rank]
    values = format_point(frozen(point.values))
    return {"is": contender(sweep, point, 1), "coefficients": values, "command": train_command(sweep.content(point))}


def _parts(sweep: TrackedSweep, reader: Reader) -> Iterator[Part]:
    """The parts of a sweep's section in their order."""
    study = rebuilt_study(sweep)
    shares = dict(importances(study))
    reported = bool(sweep.good) or any(point.status == "diverged" for point in sweep.searched)
    none = "No searched trial has reported yet."
    if len(sweep.config.objectives) > 1:
        yield _part("pareto", fronts(sweep) if sweep.good else [], "No trial has all objectives yet.")
    yield _part("history", [history(sweep)] if reported else [], none)
    few = f"It takes {FEWEST} trials that ran to the end and differ; there are {len(study.trials)}."
    yield _part("importance", [importance_bars(shares)] if shares else [], few)
    yield _part("slices", slices(sweep) if reported else [], none)
    important = list(shares) or list(sweep.space.parameters)
    yield _part("contours", contours(sweep, study, important), "Too few trials ran to the end, or they are alike.")
    yield _part("parallel", parallel_coordinates(sweep, study), "No trial ran to the end.")
    yield _part("curves", curves(sweep, reader), none)
    yield _part("diverged", diverged_shares(sweep), "No trial diverged.")
    yield from _layers(sweep, reader)


def _part(name: str, figures: Sequence[go.Figure], missing: str, of: str = "") -> Part:
    """The part of that name; `missing` is said if there is nothing to draw."""
    title, reading = READING[name]
    return Part(title=title + of, reading=reading, figures=figures, missing="" if figures else missing)


def _layers(sweep: TrackedSweep, reader: Reader) -> Iterator[Part]:
    """Heat maps of each rule's best point."""
    shown = set()
    for point in sweep.good:
        if (rule := sweep.rule(point)) not in shown:
            shown.add(rule)
            figures = heat_maps(sweep.runs[point.usable[0].label], reader)
            missing = "It measured no alignment (run.alignment.every)."
            yield _part("layers", figures, missing, of=f": {rule} {point.label}")


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _moment(milliseconds: int | None) -> str:
    """A time of MLflow's, UTC."""
    return "" if milliseconds is None else f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC"
