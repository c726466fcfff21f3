"""Training and evaluation; `fit` is the way in."""

from aln.engine.evaluation import evaluate, measure
from aln.engine.fit import fit
from aln.engine.results import EpochResult, Evaluation, StepProgress
from aln.engine.settings import FitSettings, NoisePretraining, Precision

__all__ = [
    "EpochResult",
    "Evaluation",
    "FitSettings",
    "NoisePretraining",
    "Precision",
    "StepProgress",
    "evaluate",
    "fit",
    "measure",
]
