"""What a search costs beyond training: 40 trials of a tiny job by `aln.sweep`, by stock Ray Tune and by plain Optuna.

    python benchmarks/sweep_overhead.py                       # 40 trials, two at once, three rounds
    python benchmarks/sweep_overhead.py --trials 6 --rounds 1 --ways aln optuna

Every way trains the same job (ResNet-8 on scikit-learn's digits, one thread) at points of the same space, suggested by
the same sampler of Optuna, so many at once; each is a command of its own, run in an empty folder, round after round:

- `aln`: `python -m aln.sweep` with all it does: journal, MLflow, checkpoints, the test of the best, plots.
- `tune`: Ray Tune with `OptunaSearch` and default settings; `tune_reused`: the same with `reuse_actors=True`.
- `optuna`: as many processes as are to train at once, each `study.optimize` on one study in a journal.

`ratio` is the time from the first trial's start to the last one's end over the ideal: the time that all trials spent
training (the sum of `EpochResult.seconds`), divided by slots. `start-up` is what a trial takes of its slot beyond that.
`command` is the whole command, from before its imports. Medians over the rounds; whatever else loads the machine makes
training itself slower as well, so the ratio minds it less than seconds do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from environment import load, machine, versions
from rich.console import Console
from rich.table import Table

from aln.command import guarded
from aln.errors import AlnError

HERE = Path(__file__).parent
SPACE = {
    "rule": "information",
    "parameters": {
        "rule.alpha": {"min": 1e-4, "max": 1e-2, "log": True},
        "rule.beta": {"value": 1e-5},
        "rule.gamma": {"value": 1e-3},
    },
}
STARTUP = 10


def job(epochs: int) -> dict[str, Any]:
    """The run that every trial is, but for its coefficient."""
    return {
        "model": "resnet8",
        "data": {"name": "digits"},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "epochs": epochs,
        "batch_size": 64,
        "compute": {"device": "cpu"},
        "resources": {"cpus": 1},
    }


def trained(alpha: float, epochs: int, report: Callable[[dict[str, float]], None]) -> None:
    """One trial of the other ways: `aln.job.Job`, reporting after each epoch what a sweep reports and the clock."""
    from aln.config import parse_run
    from aln.job import Job

    began, fit = time.time(), 0.0
    content = {**job(epochs), "rule": {"name": SPACE["rule"], "alpha": alpha, "beta": 1e-5, "gamma": 1e-3}}
    for result in Job(parse_run(content)).train():
        fit += result.seconds
        report({**result.metrics(), "epoch": result.epoch, "began": began, "ended": time.time(), "fit_seconds": fit})


# Each way gives one line a trial: when it began and ended (seconds since 1970), and how many seconds of it trained.


def by_aln(folder: Path, trials: int, slots: int, epochs: int) -> list[dict[str, float]]:
    """`python -m aln.sweep`, and what MLflow holds of it."""
    from mlflow import MlflowClient

    sweep = {
        "run": job(epochs),
        "trials": trials,
        "sampler": {"name": "tpe", "startup": STARTUP},
        "scheduler": "none",
        "baselines": [],
        "max_concurrent": slots,
        "experiment": "overhead",
    }
    (folder / "space.yaml").write_text(json.dumps(SPACE))
    (folder / "sweep.yaml").write_text(json.dumps(sweep))
    command = [sys.executable, "-m", "aln.sweep", "space.yaml", "--sweep", "sweep.yaml", "--name", "overhead"]
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    began = time.time()
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("overhead").experiment_id
    runs = client.search_runs([experiment], "tags.kind = 'searched'")
    lines = [
        {
            "began": run.info.start_time / 1000,
            "ended": run.info.end_time / 1000,
            "fit_seconds": run.data.metrics["train_seconds"],
        }
        for run in runs
    ]
    return [line | {"read_seconds": time.time() - began} for line in lines]


def by_tune(folder: Path, trials: int, slots: int, epochs: int, *, reuse: bool = False) -> list[dict[str, float]]:
    """Ray Tune as its documentation has it."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def trial(config: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(1)
        trained(config["alpha"], epochs, tune.report)

    os.environ.update(PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        trial,
        param_space={"alpha": tune.loguniform(1e-4, 1e-2)},
        tune_config=tune.TuneConfig(
            metric="val_top1",
            mode="max",
            search_alg=OptunaSearch(sampler=_sampler()),
            num_samples=trials,
            max_concurrent_trials=slots,
            **({"reuse_actors": True} if reuse else {}),
        ),
        run_config=tune.RunConfig(storage_path=str(folder)),
    )
    results = tuner.fit()
    ray.shutdown()
    return [{key: result.metrics[key] for key in ("began", "ended", "fit_seconds")} for result in results]


def by_optuna(folder: Path, trials: int, slots: int, epochs: int) -> list[dict[str, float]]:
    """Optuna in several processes, as its documentation has it, with epochs reported and kept."""
    from multiprocessing import get_context

    storage = _storage(folder)
    import optuna

    study = optuna.create_study(storage=storage, study_name="overhead", direction="maximize")
    shares = [trials // slots + (i < trials % slots) for i in range(slots)]
    context = get_context("spawn")
    processes = [context.Process(target=_optimize, args=(folder, share, epochs)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [trial.user_attrs["clock"] for trial in study.get_trials()]


def _storage(folder: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(folder / "study.log")))


def _optimize(folder: Path, trials: int, epochs: int) -> None:
    """One of the processes of plain Optuna."""
    import optuna
    import torch

    torch.set_num_threads(1)

    def objective(trial: Any) -> float:
        last: dict[str, float] = {}

        def report(metrics: dict[str, float]) -> None:
            last.update(metrics)
            trial.report(metrics["val_top1"], int(metrics["epoch"]))

        trained(trial.suggest_float("alpha", 1e-4, 1e-2, log=True), epochs, report)
        trial.set_user_attr("clock", {key: last[key] for key in ("began", "ended", "fit_seconds")})
        return last["val_top1"]

    study = optuna.load_study(study_name="overhead", storage=_storage(folder), sampler=_sampler())
    study.optimize(objective, n_trials=trials)


def _sampler() -> Any:
    import optuna

    return optuna.samplers.TPESampler(n_startup_trials=STARTUP, multivariate=True, constant_liar=True)


WAYS: dict[str, Callable[..., list[dict[str, float]]]] = {
    "aln": by_aln,
    "tune": by_tune,
    "tune_reused": lambda *given: by_tune(*given, reuse=True),
    "optuna": by_optuna,
}


def measured(way: str, options: argparse.Namespace) -> dict[str, float]:
    """One way once, as a command of its own in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lines.json"
        command = [sys.executable, str(HERE / "sweep_overhead.py"), "--only", way, folder, str(out)]
        command += ["--trials", str(options.trials), "--slots", str(options.slots), "--epochs", str(options.epochs)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr, env=environment)
        seconds = time.perf_counter() - began
        lines = json.loads(out.read_text())
    if len(lines) != options.trials:
        raise AlnError(f"{way} trained {len(lines)} trials, expected {options.trials}")
    fit = sum(line["fit_seconds"] for line in lines)
    span = max(line["ended"] for line in lines) - min(line["began"] for line in lines)
    return {
        "ratio": span * options.slots / fit,
        "startup_seconds": (span * options.slots - fit) / len(lines),
        "command_seconds": seconds - lines[0].get("read_seconds", 0.0),
        "fit_seconds": fit,
        "span_seconds": span,
        "load_average": load(),
    }


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


def table(found: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> Table:
    """A line a way."""
    title = f"{options.trials} trials, {options.slots} at once; medians, n = {options.rounds}"
    shown = Table(title=title, title_justify="left")
    shown.add_column("way")
    for name in ("time over ideal", "of each round", "start-up s/trial", "training s/trial", "command s", "load"):
        shown.add_column(name, justify="right")
    for way, rounds in found.items():
        middle = medians(rounds)
        shown.add_row(
            way,
            f"{middle['ratio']:.2f}",
            ", ".join(f"{each['ratio']:.2f}" for each in rounds),
            f"{middle['startup_seconds']:.2f}",
            f"{middle['fit_seconds'] / options.trials:.2f}",
            f"{middle['command_seconds']:.0f}",
            f"{middle['load_average']:.1f}",
        )
    return shown


def command(options: argparse.Namespace, console: Console) -> int:
    """Runs every way in every round, prints the table and writes the results."""
    if options.only:
        way, folder, out = options.only
        Path(out).write_text(json.dumps(WAYS[way](Path(folder), options.trials, options.slots, options.epochs)))
        return 0
    for name in ("trials", "slots", "rounds", "epochs"):
        if getattr(options, name) < 1:
            raise AlnError(f"--{name} {getattr(options, name)}: expected at least 1")
    found: dict[str, list[dict[str, float]]] = {}
    for number in range(options.rounds):
        for way in options.ways:
            found.setdefault(way, []).append(measured(way, options))
            ratio = found[way][-1]["ratio"]
            console.print(f"round {number + 1}, {way}: {ratio:.2f} times the ideal", highlight=False)
            if options.out:  # a long measurement that is interrupted leaves what it has
                write(found, options)
    console.width = max(console.width, 110)
    console.print(table(found, options))
    return 0


def write(found: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    """Writes what has been measured."""
    result = {
        "benchmark": "sweep_overhead",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "n": {way: len(rounds) for way, rounds in found.items()},
        "machine": machine(),
        "versions": versions("torch", "ray", "optuna", "mlflow"),
        "settings": {name: getattr(options, name) for name in ("trials", "slots", "epochs", "rounds")},
        "units": "ratio: time over the ideal; seconds; load_average: processes that wanted a core, ours included",
        "medians": {way: medians(rounds) for way, rounds in found.items()},
        "rounds": found,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    found = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    found.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    found.add_argument("--trials", type=int, default=40)
    found.add_argument("--slots", type=int, default=2, help="trials at once, a core each")
    found.add_argument("--epochs", type=int, default=3, help="of a trial")
    found.add_argument("--rounds", type=int, default=3)
    found.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    found.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    return found


if __name__ == "__main__":
    sys.exit(guarded(command, parser().parse_args()))
