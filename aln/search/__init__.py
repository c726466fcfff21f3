"""Ray Tune and Optuna over a search space: trials, early stopping, baselines, and what came of them."""

from aln.search.plan import SweepPlan
from aln.search.records import Point, TrialRecord
from aln.search.study import Study
from aln.search.sweeper import SweepOutcome, run_sweep

__all__ = ["Point", "Study", "SweepOutcome", "SweepPlan", "TrialRecord", "run_sweep"]
