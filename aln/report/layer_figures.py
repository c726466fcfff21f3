"""How far a training was from backprop, layer by layer and epoch by epoch, as heat maps."""

from __future__ import annotations

import plotly.graph_objects as go
from mlflow.entities import Run

from aln.config.objectives import OF_LAYERS
from aln.tracking import Reader

_TITLES = {
    "angle": "W to B",
    "projection_angle": "projections: B's to W's",
    "error_angle": "error sent down to backprop's, layer by layer",
    "gradient_angle": "gradient of W to backprop's",
    "end_to_end_error_angle": "error sent down to backprop's, whole network",
}
_RIGHT_ANGLE = 90.0


def heat_maps(run: Run, reader: Reader) -> list[go.Figure]:
    """For each angle that the run measured, layers against epochs in degrees; none if it measured none."""
    figures = []
    for metric in OF_LAYERS:
        layers = [key for key in run.data.metrics if key.startswith(f"{metric}/")]
        if not layers:
            continue
        found = {key.partition("/")[2]: dict(reader.history(run, key)) for key in layers}
        epochs = sorted({epoch for by_epoch in found.values() for epoch in by_epoch})
        degrees = [[by_epoch.get(epoch) for epoch in epochs] for by_epoch in found.values()]
        most = max(value for row in degrees for value in row if value is not None)
        figure = go.Figure(
            go.Heatmap(
                x=epochs,
                y=list(found),
                z=degrees,
                zmin=0,
                zmax=max(_RIGHT_ANGLE, most),
                colorscale="Viridis_r",
                colorbar={"title": "°", "thickness": 10},
                hovertemplate="%{y}, epoch %{x}: %{z:.1f}°<extra></extra>",
            )
        )
        figure.update_yaxes(autorange="reversed", type="category", tickfont={"size": 10})
        figure.update_layout(title=_TITLES[metric], xaxis_title="epoch", height=150 + 18 * len(found))
        figures.append(figure)
    return figures
