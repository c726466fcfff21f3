"""Optuna's samplers and pruners by the names that a sweep gives them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from aln.config import SweepConfig
from aln.seeds import derived_seed


def make_sampler(sweep: SweepConfig, begin: int) -> BaseSampler:
    """The sampler asked for, which is to suggest its point number `begin` next and knows of those before.

    Two processes that suggest for one sweep, one after the other, begin at different numbers and so do not repeat each
    other's random choices. Quasi-random points are counted by the study.
    """
    startup = sweep.sampler.startup
    seed = derived_seed(sweep.sampler.seed, begin) % 2**32 if begin else sweep.sampler.seed
    samplers: dict[str, Callable[[], BaseSampler]] = {
        # Multivariate: coefficients work together. Constant liar: trials in flight repel the next suggestion.
        "tpe": lambda: TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        ),
        "random": lambda: RandomSampler(seed=seed),
        "grid": lambda: RandomSampler(seed=seed),  # its points are known
        "cmaes": lambda: CmaEsSampler(seed=seed, n_startup_trials=startup),
        "gp": lambda: GPSampler(seed=seed, n_startup_trials=startup, deterministic_objective=False),
        "qmc": lambda: QMCSampler(seed=sweep.sampler.seed, scramble=True),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return samplers[sweep.sampler.name]()


def make_pruner(sweep: SweepConfig, epochs: int) -> BasePruner | None:
    """The scheduler asked for; None if it is none, or one that cannot stop anything within so many epochs."""
    scheduler = sweep.scheduler
    if scheduler.name == "none" or len(sweep.objectives) > 1 or scheduler.grace >= epochs:
        return None
    reduction = scheduler.reduction
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if scheduler.name == "asha":
            return SuccessiveHalvingPruner(min_resource=scheduler.grace, reduction_factor=reduction)
        if scheduler.name == "hyperband":
            return HyperbandPruner(min_resource=scheduler.grace, max_resource=epochs, reduction_factor=reduction)
        return MedianPruner(n_startup_trials=scheduler.startup, n_warmup_steps=scheduler.grace)
