"""Ray Tune and Optuna: suggest, pack, stop early. The one place that knows either of them."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune import Callback, ResultGrid
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from aln.cluster import joined_cluster
from aln.config import SweepConfig
from aln.errors import SweepError
from aln.search.plan import SweepPlan, slots
from aln.search.trial import run_trial
from aln.space import Parameter, Range


class BaselinesFirst(Searcher):
    """Suggests the baselines, then the points that Optuna suggests; Optuna hears of its own points alone.

    Every assignment carries `label`, `baseline`, `point`, `run` (the run's content), `checkpoints` (where they go),
    `metric` and `mode`.
    """

    def __init__(self, plan: SweepPlan) -> None:
        super().__init__(metric="objective", mode=plan.sweep.mode)
        self._plan = plan
        self._waiting = list(plan.baselines())
        self._baselines: set[str] = set()
        self._suggested = 0
        self._optuna = OptunaSearch(
            space={key: _distribution(parameter) for key, parameter in plan.space.parameters.items()},
            metric="objective",
            mode=plan.sweep.mode,
            sampler=_sampler(plan.sweep),
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._waiting:
            rule, content = self._waiting.pop(0)
            self._baselines.add(trial_id)
            return self._assignment(rule, {}, content, baseline=True)
        # A point's keys are dotted and stay so: OptunaSearch nests only at slashes.
        point = self._optuna.suggest(trial_id)
        assert isinstance(point, dict)
        label, self._suggested = f"{self._suggested:03d}", self._suggested + 1
        return self._assignment(label, point, self._plan.content(point), baseline=False)

    def _assignment(self, label: str, point: dict[str, Any], content: dict[str, Any], baseline: bool) -> dict[str, Any]:
        sweep, checkpoints = self._plan.sweep, self._plan.checkpoints(label)
        common = {"metric": sweep.metric, "mode": sweep.mode, "checkpoints": checkpoints}
        return {"label": label, "baseline": baseline, "point": point, "run": content, **common}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id not in self._baselines:
            self._optuna.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._baselines:
            self._optuna.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_bytes(pickle.dumps(self.__dict__))

    def restore(self, checkpoint_path: str) -> None:
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))  # noqa: S301 (written by `save`)


class ASHAWithoutBaselines(ASHAScheduler):
    """ASHA that neither stops a baseline nor ranks trials against one: both are compared at full length."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        judged = not trial.config["baseline"]
        action: str = super().on_trial_result(tune_controller, trial, result) if judged else TrialScheduler.CONTINUE
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        if not trial.config["baseline"]:
            super().on_trial_complete(tune_controller, trial, result)


@contextmanager
def cluster(plan: SweepPlan) -> Iterator[tuple[str, int]]:
    """The Ray cluster for the sweep, which ends with it if it was started for it.

    Yields its description and the number of trials that fit at once. Raises `AlnError` if the cluster cannot be joined,
    `SweepError` if not one trial fits.
    """
    # Tune prints every trial's traceback; ours are in the trial's run and folder.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with joined_cluster() as here:
        fits = slots(plan.base.resources, here.cpus, here.gpus)
        if fits < 1:
            wants = f"{plan.base.resources.cpus} CPU cores and {plan.base.resources.gpus:g} GPUs"
            raise SweepError(f"no trial fits: each takes {wants}, the cluster has {here.has}")
        yield f"{here.where} with {here.has}", min(fits, plan.sweep.max_concurrent or fits)


def tune_trials(plan: SweepPlan, concurrent: int, callback: Callback) -> ResultGrid:
    """Runs the baselines and `plan.sweep.trials` suggested trials. Failed trials do not end it."""
    resources = {"cpu": plan.base.resources.cpus, "gpu": plan.base.resources.gpus}
    tuner = tune.Tuner(
        tune.with_resources(run_trial, resources),
        tune_config=tune.TuneConfig(
            metric="objective",
            mode=plan.sweep.mode,
            search_alg=BaselinesFirst(plan),
            scheduler=_scheduler(plan),
            num_samples=plan.sweep.trials + len(plan.sweep.baselines),
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(plan.folder),
            callbacks=[callback],
            verbose=0,
        ),
    )
    return tuner.fit()


def _trial_name(trial: Trial) -> str:
    return f"{trial.config['label']}"


def _scheduler(plan: SweepPlan) -> TrialScheduler:
    """The scheduler asked for; one that cannot stop anything within the run's epochs is none at all."""
    scheduler, epochs = plan.sweep.scheduler, plan.base.epochs
    if scheduler.name == "none" or scheduler.grace >= epochs:
        return FIFOScheduler()
    return ASHAWithoutBaselines(
        time_attr="epoch",
        max_t=epochs,
        grace_period=scheduler.grace,
        reduction_factor=scheduler.reduction,
        stop_last_trials=False,
    )


def _sampler(sweep: SweepConfig) -> optuna.samplers.BaseSampler:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if sweep.sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=sweep.sampler.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Multivariate: coefficients work together. Constant liar: trials in flight repel the next suggestion.
        return optuna.samplers.TPESampler(
            seed=sweep.sampler.seed, n_startup_trials=sweep.sampler.startup, multivariate=True, constant_liar=True
        )


def _distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    if not isinstance(parameter, Range):
        return optuna.distributions.CategoricalDistribution(parameter.values)
    if parameter.integer:
        low, high, step = int(parameter.min), int(parameter.max), int(parameter.step or 1)
        return optuna.distributions.IntDistribution(low, high, log=parameter.log, step=step)
    return optuna.distributions.FloatDistribution(
        float(parameter.min), float(parameter.max), log=parameter.log, step=parameter.step
    )
