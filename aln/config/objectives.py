"""What a sweep optimises: metrics that a training reports, and whether more of one is better."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_serializer, model_validator
from pydantic_core import PydanticCustomError

from aln.alignment import METRICS
from aln.config.section import Section
from aln.hints import hint

Mode = Literal["max", "min"]

# Accuracies in percent, losses in nats, seconds of training and evaluation together.
_OF_RUNS: dict[str, Mode] = {
    "val_top1": "max",
    "val_top5": "max",
    "val_loss": "min",
    "train_top1": "max",
    "train_loss": "min",
    "train_seconds": "min",
}
# Degrees, the mean over the layers that have them; see `aln.alignment`.
OF_LAYERS = tuple(metric for metric in METRICS if metric.endswith("angle"))
DIRECTIONS: dict[str, Mode] = {**_OF_RUNS, **dict.fromkeys(OF_LAYERS, "min")}


def refusal(message: str) -> PydanticCustomError:
    """What a validator raises to have `message` said as it is."""
    return PydanticCustomError("refused", "{message}", {"message": message})


class Objective(Section):
    """A metric and its direction; written `val_top1 max`, or `val_top1`, since each metric has one good direction."""

    metric: str
    mode: Mode

    @model_validator(mode="before")
    @classmethod
    def _parsed(cls, written: Any) -> Any:
        if isinstance(written, Objective):
            return written
        if isinstance(written, Mapping) and written and set(written) <= {"metric", "mode"}:
            written = f"{written.get('metric', '')} {written.get('mode', '')}"
        if not isinstance(written, str) or not 1 <= len(written.split()) <= 2:
            raise refusal("expected a metric, or a metric and max or min, such as 'val_top1 max'")
        metric, *direction = written.split()
        if metric not in DIRECTIONS:
            raise refusal(f"unknown metric '{metric}'{hint(metric, DIRECTIONS)} (known: {', '.join(DIRECTIONS)})")
        mode = DIRECTIONS[metric]
        if direction and direction != [mode]:
            raise refusal(f"expected '{metric} {mode}'")
        return {"metric": metric, "mode": mode}

    @model_serializer
    def _written(self) -> str:
        return f"{self.metric} {self.mode}"

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """The objective among the metrics of an epoch (`EpochResult.metrics()`), or None if it is not there.

        A metric of layers, reported as `METRIC/LAYER`, is the mean over the layers that have it.
        """
        if self.metric in OF_LAYERS:
            layers = [value for key, value in metrics.items() if key.startswith(f"{self.metric}/")]
            return statistics.fmean(layers) if layers else None
        return metrics.get(self.metric)
