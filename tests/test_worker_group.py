"""Trials by two workers on a real Ray cluster: kept warm, stopped early, lost, and gone when they should be."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from aln.cluster import Cluster, joined_cluster
from aln.config import Resources, parse_run
from aln.engine import EpochResult
from aln.errors import CheckpointError, ClusterError
from aln.job import Job, checkpoints_of
from aln.worker_group import WorkerGroup, trial_resources, trials_at_once, warm_group
from fated_workers import FOLDER, NOTHING, left, processes, settles
from ray_head import started_head

EPOCHS = 4
RUN: dict[str, Any] = {
    "rule": "fated_workers:Fated",
    "model": {"name": "mlp", "width": 16, "depth": 1},  # two gradients a step
    "data": {"name": "synthetic", "train": 320, "validation": 50, "test": 50, "image_size": 4, "channels": 1},
    "optimizer": {"name": "sgd", "lr": 0.05},
    "epochs": EPOCHS,
    "batch_size": 64,  # five steps an epoch
    "checkpoint": {"every": 1},
    "resources": {"workers": 2},
}


def timeless(result: EpochResult) -> dict[str, float]:
    """The metrics that do not depend on the machine's speed."""
    return {k: v for k, v in result.metrics().items() if k not in ("epoch_seconds", "images_per_second")}


def content(lr: float = 0.05, **changes: Any) -> dict[str, Any]:
    return {**RUN, "optimizer": {"name": "sgd", "lr": lr}, **changes}


def alone(run: dict[str, Any]) -> list[dict[str, float]]:
    """The metrics of one worker, an epoch each."""
    return [timeless(result) for result in Job(parse_run({**run, "resources": {"workers": 1}})).train()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of two CPU cores, which this process has joined, and the folder of its processes."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("place")
        patch.setenv(FOLDER, str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        with started_head(tmp_path_factory.mktemp("head")) as address:
            patch.setenv("RAY_ADDRESS", address)
            with joined_cluster():
                yield folder


@pytest.fixture
def folder(place: Path) -> Path:
    """The processes' folder, emptied of what befell earlier ones; nothing runs on the cluster."""
    assert settles(lambda: left(place), NOTHING) == NOTHING
    for path in place.iterdir():
        if path.is_file():
            path.unlink()
    return place


# In a sweep.


def trial(assignment: dict[str, Any]) -> None:
    """A trial as a sweep has it."""
    entered = time.time()
    config = parse_run(assignment["run"])
    for result in warm_group(config.resources).train(config, assignment["checkpoints"]):
        seen = {"epoch": result.epoch, "entered": entered, "heard": time.time(), "trial_process": os.getpid()}
        tune.report({"metrics": timeless(result), **seen})
        if assignment.get("dies") == result.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


class Hearer(tune.Callback):
    """Keeps what trials report, by trial."""

    def __init__(self) -> None:
        self.reports: dict[str, list[dict[str, Any]]] = {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        self.reports.setdefault(trial.trial_id, []).append(dict(result))


def sweep(folder: Path, assignments: list[dict[str, Any]], stop: dict[str, Any] | None = None) -> SimpleNamespace:
    """The reports of such trials, one after the other, each a list, and errors."""
    hearer = Hearer()
    tuner = tune.Tuner(
        tune.with_resources(trial, trial_resources(parse_run(RUN).resources)),
        param_space=tune.grid_search(assignments),
        tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id),
        run_config=tune.RunConfig(storage_path=str(folder), name="trials", stop=stop, callbacks=[hearer], verbose=0),
    )
    errors = [result.error for result in tuner.fit() if result.error is not None]
    return SimpleNamespace(reports=list(hearer.reports.values()), errors=errors)


TRIALS = 10


@pytest.fixture(scope="module")
def stopped(place: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Ten trials, each stopped after two of its four epochs."""
    home = tmp_path_factory.mktemp("stopped")
    assignments = [{"run": content(0.01 * (i + 1)), "checkpoints": str(home / f"{i}")} for i in range(TRIALS)]
    done = sweep(home, assignments, stop={"epoch": 2})
    return SimpleNamespace(
        assignments=assignments,
        reports=done.reports,
        errors=done.errors,
        left=settles(lambda: left(place), NOTHING),
        processes=processes(place),
    )


def test_ten_trials_stopped_early_leave_nothing_behind(stopped: SimpleNamespace) -> None:
    assert [[report["epoch"] for report in reports] for reports in stopped.reports] == [[1, 2]] * TRIALS
    assert not stopped.errors
    assert stopped.left == NOTHING


def test_all_trials_have_the_same_processes(stopped: SimpleNamespace) -> None:
    assert sorted(stopped.processes.values()) == [0, 1]
    assert len({report["trial_process"] for reports in stopped.reports for report in reports}) == 1
    entered, first, last = (
        [reports[i][key] for reports in stopped.reports] for i, key in ((0, "entered"), (0, "heard"), (-1, "heard"))
    )
    assert all(end < begin for end, begin in zip(last, entered[1:], strict=False))
    # For whoever wants to know (`pytest -rP`); there is no telling what else a machine does.
    print(f"Seconds from the start of the first trial to its first epoch: {first[0] - entered[0]:.2f}")
    gaps = [f"{begin - end:.2f}" for end, begin in zip(last, first[1:], strict=False)]
    print(f"and from the last epoch of a trial to the first of the next: {', '.join(gaps)}")


def test_what_a_trial_trained_before_does_not_show_in_the_next(stopped: SimpleNamespace) -> None:
    for assignment, reports in zip(stopped.assignments, stopped.reports, strict=True):
        expected = alone(assignment["run"])[:2]
        assert [report["metrics"] for report in reports] == [pytest.approx(epoch, rel=1e-4) for epoch in expected]


def test_an_epoch_is_saved_when_its_result_has_been_dealt_with(stopped: SimpleNamespace) -> None:
    """A trial that is stopped does not ask for more, so its last epoch is not saved."""
    for assignment in stopped.assignments:
        saved = checkpoints_of(parse_run(assignment["run"]), assignment["checkpoints"]).saved()
        assert [checkpoint.epoch for checkpoint in saved] == [1]


def test_workers_of_a_trial_whose_process_is_killed_go_with_it(folder: Path, tmp_path: Path) -> None:
    done = sweep(tmp_path, [{"run": content(), "checkpoints": str(tmp_path / "saved"), "dies": 2}])
    assert len(done.errors) == 1
    assert len(processes(folder)) == 2
    assert settles(lambda: left(folder), NOTHING) == NOTHING


# In a process that has the placement group of a trial.


class Holder:
    """Trains and tells all of it; a Ray actor."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def train(self, run: dict[str, Any], saved: str, epochs: int = EPOCHS) -> tuple[list[Any], Any, list[str]]:
        """Metrics of so many epochs, the error that ended them, pickled, and what was told."""
        config, heard, error, lines = parse_run(run), [], None, []
        try:
            for result in warm_group(config.resources).train(config, saved, lines.append):
                heard.append(timeless(result) | {"epoch": result.epoch})
                if len(heard) == epochs and epochs < EPOCHS:
                    break
        except Exception as raised:
            error = (type(raised), str(raised), "".join(getattr(raised, "__notes__", ())))
        return heard, error, lines


@pytest.fixture
def holder(folder: Path) -> Iterator[Callable[..., Any]]:
    """`Holder.train`, in a process with the placement group of a trial by two workers."""
    group = trial_resources(parse_run(RUN).resources).to_placement_group()
    where = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    actor = ray.remote(num_cpus=0)(Holder).options(scheduling_strategy=where).remote()
    yield lambda *arguments: ray.get(actor.train.remote(*arguments))
    ray.kill(actor)
    ray.util.remove_placement_group(group)


def numbers(heard: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Metrics without the epoch, to compare with."""
    return [pytest.approx({k: v for k, v in epoch.items() if k != "epoch"}, rel=1e-4) for epoch in heard]


def test_a_killed_worker_is_replaced_and_all_go_on_from_the_newest_checkpoint(
    folder: Path, holder: Callable[..., Any], tmp_path: Path
) -> None:
    """It dies in the fourth epoch; the newest checkpoint is of the second."""
    run = content(checkpoint={"every": 2})
    (folder / "plan").write_text("1 34 die")
    heard, error, lines = holder(run, str(tmp_path / "saved"))
    assert error is None
    assert [epoch["epoch"] for epoch in heard] == [1, 2, 3, 4]
    assert numbers(heard) == alone(run)
    assert lines[0].startswith(("Worker 1 died", "A worker was lost"))
    assert lines[0].endswith("all go on from epoch 3, step 1 (restart 1 of 3).")
    assert len(lines) == 1
    assert len(processes(folder)) == 4
    saved = checkpoints_of(parse_run(run), str(tmp_path / "saved")).saved()
    assert [checkpoint.epoch for checkpoint in saved] == [2, 4]
    # The new ones are as warm as those before.
    again, error, _ = holder(content(0.01), str(tmp_path / "next"), 1)
    assert error is None
    assert numbers(again) == alone(content(0.01))[:1]
    assert len(processes(folder)) == 4


def test_a_worker_lost_between_trials_is_no_loss_of_the_next(
    folder: Path, holder: Callable[..., Any], tmp_path: Path
) -> None:
    run = content(resources={"workers": 2, "restarts": 0})
    holder(run, str(tmp_path / "saved"), 1)
    idle = {rank: process for process, rank in processes(folder).items()}
    kept = left(folder)
    assert sorted(kept["actors"]) == ["Holder", "_Worker", "_Worker"]
    assert sorted(kept["processes"]) == sorted(idle.values())
    assert len(kept["placement groups"]) == 1
    os.kill(idle[1], signal.SIGKILL)
    heard, error, lines = holder(run, str(tmp_path / "next"), 1)
    assert (error, lines) == (None, [])
    assert numbers(heard) == alone(run)[:1]
    assert len(processes(folder)) == 4


def test_workers_lost_too_often_end_the_trial(folder: Path, holder: Callable[..., Any], tmp_path: Path) -> None:
    (folder / "plan").write_text("* 5 always-die")
    run = content(resources={"workers": 2, "restarts": 1})
    heard, (kind, text, _), lines = holder(run, str(tmp_path / "saved"))
    assert heard == []
    assert kind is ClusterError
    assert "workers were lost more often than resources.restarts = 1 allows: " in text
    assert len(lines) == 1
    assert settles(lambda: left(folder)["processes"], []) == []


@pytest.mark.parametrize(
    ("deed", "kind", "text"),
    [("fail", ValueError, "a rule with a bug"), ("puzzle", RuntimeError, "UnportableError: a puzzle")],
)
def test_a_workers_error_is_raised_as_itself(
    folder: Path, holder: Callable[..., Any], tmp_path: Path, deed: str, kind: type, text: str
) -> None:
    """Worker 0 meanwhile waits for the other's gradients, and would for ever."""
    (folder / "plan").write_text(f"1 14 {deed}")
    heard, (found, said, notes), lines = holder(content(), str(tmp_path / "saved"))
    assert [epoch["epoch"] for epoch in heard] == [1]
    assert (found, said) == (kind, text)
    assert lines == []
    assert "On worker 1:" in notes
    assert "fated_workers.py" in notes
    assert len(processes(folder)) == 2
    assert settles(lambda: left(folder)["processes"], []) == []


def test_a_damaged_checkpoint_is_told_and_one_of_another_run_refused(
    holder: Callable[..., Any], tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    first, _, _ = holder(content(), str(saved), 3)
    newest = max(saved.glob("*.pt"))
    newest.write_bytes(b"damaged")
    heard, error, lines = holder(content(), str(saved))
    assert error is None
    assert [epoch["epoch"] for epoch in heard] == [2, 3, 4]
    assert heard[:2] == first[1:]
    assert len(lines) == 1
    assert newest.name in lines[0]
    _, (kind, text, _), _ = holder(content(0.01), str(saved))
    assert kind is CheckpointError
    assert "belongs to another configuration: optimizer.lr was 0.05 and is 0.01" in text


# Of resources.


@pytest.mark.parametrize(
    ("resources", "bundles", "head_is_empty"),
    [
        ({"workers": 1, "cpus": 2}, [{"CPU": 2.0}], False),
        ({"workers": 1, "gpus": 0.5}, [{"CPU": 1.0, "GPU": 0.5}], False),
        ({"workers": 2}, [{"CPU": 1.0}] * 2, True),
        ({"workers": 3, "cpus": 4, "gpus": 1}, [{"CPU": 4.0, "GPU": 1.0}] * 3, True),
    ],
)
def test_a_trial_takes_what_its_workers_take(
    resources: dict[str, Any], bundles: list[dict[str, float]], head_is_empty: bool
) -> None:
    taken = trial_resources(Resources(**resources))
    assert taken.bundles == bundles
    assert taken.head_bundle_is_empty == head_is_empty
    assert pickle.loads(pickle.dumps(taken)) == taken


@pytest.mark.parametrize(
    ("resources", "nodes", "trials"),
    [
        ({"workers": 1}, [(2, 0)], 2),
        ({"workers": 2}, [(2, 0)], 1),
        ({"workers": 2}, [(3, 0), (3, 0)], 3),
        ({"workers": 2, "cpus": 2}, [(3, 0), (3, 0)], 1),
        ({"workers": 2, "gpus": 0.5}, [(8, 1), (8, 0)], 1),
        ({"workers": 4, "gpus": 1}, [(64, 8), (64, 8)], 4),
        ({"workers": 3}, [(2, 0)], 0),
    ],
)
def test_as_many_trials_fit_as_there_is_room_for_their_workers(
    resources: dict[str, Any], nodes: list[tuple[float, float]], trials: int
) -> None:
    assert trials_at_once(Cluster("here", nodes), Resources(**resources)) == trials


def test_workers_without_a_place_are_refused(place: Path) -> None:
    with pytest.raises(ClusterError, match=r"2 workers need a placement group of as many bundles, .* one of 0"):
        WorkerGroup(Resources(workers=2))
