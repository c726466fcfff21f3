"""One colour for one thing in every plot."""

from __future__ import annotations

from collections.abc import Iterable

# How a trial ended: its colour, and what a legend calls it.
ENDINGS = {
    "completed": ("#1f6f8b", "completed"),
    "stopped": ("#9fb8c4", "stopped early"),
    "diverged": ("#c1440e", "diverged"),
    "failed": ("#7b3294", "failed"),
    "timed out": ("#7b3294", "timed out"),
}
BEST, SINGLE_SEED, EDGE = "#f2b701", "#999999", "#333333"
_KNOWN_BASELINES = {"backprop": "#333333", "feedback": "#b07aa1"}
_OTHER_BASELINES = ("#59a14f", "#e0a100", "#4e79a7", "#9c755f")


def baseline_colours(rules: Iterable[str]) -> dict[str, str]:
    """A colour for each baseline: always the same for the usual ones."""
    rules = list(rules)
    others = iter(_OTHER_BASELINES * len(rules))
    return {rule: _KNOWN_BASELINES.get(rule) or next(others) for rule in rules}
