"""A sweep without training: its trials report what a formula says, so that only the search itself takes time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import tune

from aln.config import Document, parse_sweep
from aln.search.plan import SweepPlan
from aln.space import parse_space

EPOCHS = 4
# The coefficients of `search_spaces/information.yaml`.
SPACE = {
    "rule": "information",
    "parameters": {
        "rule.alpha": {"min": 1e-4, "max": 1e-1, "log": True},
        "rule.beta": {"min": 1e-5, "max": 1e-2, "log": True},
        "rule.gamma": {"min": 1e-4, "max": 1e-1, "log": True},
        "rule.input_distribution": {"values": [None, "normal"]},
    },
}


def plan(folder: Path, trials: int, sampler: str, **settings: Any) -> SweepPlan:
    """A sweep of so many trials of four epochs, stopped early by ASHA, in a folder that is there already."""
    content = {
        "run": {"data": {"name": "digits"}, "model": {"name": "mlp", "width": 16}, "epochs": EPOCHS},
        "trials": trials,
        "sampler": sampler,
        "scheduler": {"name": "asha", "grace": 1, "reduction": 3},
        "baselines": [],
        **settings,
    }
    sweep, base = parse_sweep(Document(content))
    space = parse_space(Document(SPACE), sweep.run)
    return SweepPlan(name="growth", space=space, sweep=sweep, base=base, folder=folder)


def epochs(run: Mapping[str, Any]) -> Iterator[dict[str, float]]:
    """What training such a run would report: the better, the nearer its coefficients are to some that are best."""
    rule = run["rule"]
    distance = sum((math.log10(rule[key]) - best) ** 2 for key, best in (("alpha", -2), ("beta", -4), ("gamma", -3)))
    for epoch in range(1, EPOCHS + 1):
        top1 = 100 * math.exp(-0.2 * distance) * (1 - 0.5**epoch)
        yield {
            "val_top1": top1,
            "val_top5": min(100.0, top1 + 5),
            "val_loss": 3 - top1 / 50,
            "train_loss": 3 - top1 / 40,
            "epoch_seconds": 0.0,
            "epoch": float(epoch),
            "diverged": 0.0,
        }


def surrogate_trial(assignment: dict[str, Any]) -> None:
    """In place of `aln.search.trial.run_trial`: reports the same and trains nothing."""
    for metrics in epochs(assignment["run"]):
        tune.report({"metrics": metrics})
    tune.report({"status": "completed", "error": ""})
