"""What a sweep can be told, through the command: several rules, seeds and objectives, warm starts, many workers."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from real_sweeps import sweep

SPACE = """
rule: {values: [information, mirror]}
parameters:
  rule.alpha: {min: 1e-4, max: 1e-1, log: true}
  rule.gamma: {min: 1e-4, max: 1e-1, log: true, when: {rule.name: information}}
  rule.beta: {tie: rule.alpha, factor: 0.1, when: {rule.name: information}}
constraints: [rule.alpha < rule.gamma]
enqueue: [{rule.name: mirror, rule.alpha: 0.01}, {rule.name: information, rule.alpha: 0.001}]
"""
SWEEP = """
run:
  model: {name: mlp, width: 16, depth: 1}
  data: digits
  epochs: 2
  seed: 3
  compute: {device: cpu}
trials: 3
seeds: 2
objective: [val_top1 max, train_seconds min]
baselines: [backprop]
sampler: random
experiment: options
max_concurrent: 1
"""


def run(folder: Path, address: str, *arguments: str) -> str:
    done = sweep(folder, *arguments, environment={"RAY_ADDRESS": address})
    assert done.returncode == 0, done.out
    assert done.err == ""
    return done.out


def children(folder: Path, sweep: str) -> dict:
    """The runs of a sweep's trainings in MLflow, by label."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("options").experiment_id], f"tags.sweep = '{sweep}'")
    return {child.data.tags["trial"]: child for child in found if child.data.tags["kind"] != "sweep"}


def table_of(folder: Path, sweep: str) -> list[dict[str, str]]:
    with (folder / "results" / sweep / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, ray_head: str) -> SimpleNamespace:
    """A sweep over two rules, of two seeds and two objectives, with known points."""
    folder = tmp_path_factory.mktemp("options")
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "space.yaml").write_text(SPACE)
    (folder / "sweep.yaml").write_text(SWEEP)
    out = run(folder, ray_head, "space.yaml", "--sweep", "sweep.yaml", "--name", "first")
    return SimpleNamespace(folder=folder, out=out, runs=children(folder, "first"), table=table_of(folder, "first"))


LABELS = ["backprop-s0", "backprop-s1", *(f"{n:03d}-s{seed}" for n in range(3) for seed in range(2))]


def test_each_point_is_trained_with_each_seed(first: SimpleNamespace) -> None:
    assert [row["trial"] for row in first.table] == LABELS
    assert sorted(first.runs) == sorted(LABELS)
    assert {row["trial"][-2:]: row["seed"] for row in first.table} == {"s0": "3", "s1": "4"}
    for row in first.table:
        child = first.runs[row["trial"]]
        assert (child.info.status, child.data.tags["status"], row["status"]) == ("FINISHED", "completed", "completed")
        assert child.data.params["seed"] == row["seed"]
        assert float(row["val_top1"]) == child.data.metrics["val_top1"]
        assert child.data.metrics["epoch"] == 2


def test_known_points_come_first_and_conditions_ties_and_constraints_hold(first: SimpleNamespace) -> None:
    points = {label: json.loads(child.data.tags["point"]) for label, child in first.runs.items()}
    assert points["000-s0"] == {"rule.name": "mirror", "rule.alpha": 0.01}
    assert points["001-s0"].pop("rule.gamma") > 0.001
    assert points["001-s0"] == {"rule.name": "information", "rule.alpha": 0.001}
    for label, child in first.runs.items():
        if label.startswith("backprop"):
            continue
        params = child.data.params
        assert params["rule.name"] == json.loads(child.data.tags["point"])["rule.name"]
        if params["rule.name"] == "information":
            assert float(params["rule.beta"]) == pytest.approx(0.1 * float(params["rule.alpha"]))
            assert float(params["rule.alpha"]) < float(params["rule.gamma"])
    rules = {row["trial"]: row["rule"] for row in first.table}
    assert (rules["backprop-s0"], rules["000-s0"], rules["001-s0"]) == ("backprop", "mirror", "information")
    gammas = {row["trial"]: row["rule.gamma"] for row in first.table}
    assert gammas["000-s0"] == ""
    assert float(gammas["001-s0"]) > 0.001


def test_the_plan_says_what_is_searched_under_what(first: SimpleNamespace) -> None:
    assert first.out.startswith("first: information or mirror on digits, mlp\n")
    assert re.search(r"rule\.gamma +│ 0\.0001 … 0\.1, log, where rule\.name is information", first.out)
    assert re.search(r"rule\.beta +│ 0\.1 x rule\.alpha, where rule\.name is information", first.out)
    assert "Only where rule.alpha < rule.gamma." in first.out
    assert "3 trials and the baseline backprop, each with 2 seeds, at most 2 epochs each; random, no early" in first.out


def test_the_answer_is_a_front_of_means(first: SimpleNamespace) -> None:
    means = {}
    for label in ("000", "001", "002"):
        rows = [row for row in first.table if row["trial"].startswith(label)]
        means[label] = tuple(sum(float(row[metric]) for row in rows) / 2 for metric in ("val_top1", "train_seconds"))
    front = {
        label
        for label, (top1, seconds) in means.items()
        if not any(a >= top1 and b <= seconds and (a, b) != (top1, seconds) for a, b in means.values())
    }
    best = re.search(r"^Best trial by val_top1 (\d{3}): rule\.name=", first.out, re.MULTILINE)
    assert best is not None
    assert means[best[1]][0] == max(top1 for top1, _ in means.values())
    assert {best[1], *re.findall(r"^Pareto front (\d{3}): rule\.name=", first.out, re.MULTILINE)} == front
    row = re.search(rf"^│best {best[1]} +│ (\w+) +│ +2 │ +([\d.]+) ± [\d.]+ │", first.out, re.MULTILINE)
    assert row is not None, first.out
    assert float(row[2]) == pytest.approx(means[best[1]][0], abs=0.005)
    tested = {label for label, child in first.runs.items() if "test_top1" in child.data.metrics}
    assert tested == {f"{label}-s{seed}" for label in ("backprop", *front) for seed in (0, 1)}
    assert max(map(len, re.findall("^[│┃].*$", first.out, re.MULTILINE))) <= 80


def test_each_point_of_the_front_has_a_configuration_and_the_front_a_plot(first: SimpleNamespace) -> None:
    front = re.findall(r"^(?:Best trial by val_top1|Pareto front) (\d{3}): ", first.out, re.MULTILINE)
    folder = first.folder / "results/first"
    assert sorted(path.name for path in (folder / "pareto").iterdir()) == sorted(f"{label}.yaml" for label in front)
    for label in front:
        content = yaml.safe_load((folder / f"pareto/{label}.yaml").read_text())
        params = first.runs[f"{label}-s0"].data.params
        assert (content["rule"]["name"], content["seed"]) == (params["rule.name"], 3)
        assert content["rule"]["alpha"] == float(params["rule.alpha"])
    assert (folder / "plots/pareto.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"^  Pareto front +results/first/pareto$", first.out, re.MULTILINE)
    assert re.search(r"^  its plot +results/first/plots/pareto\.png$", first.out, re.MULTILINE)


def test_best_yaml_is_the_best_training_complete(first: SimpleNamespace) -> None:
    content = yaml.safe_load((first.folder / "results/first/best.yaml").read_text())
    best = re.search(r"Best trial by val_top1 (\d{3})", first.out)
    assert content["rule"]["name"] == first.runs[f"{best[1]}-s0"].data.params["rule.name"]
    assert content["seed"] == 3


def test_two_workers_a_trial_warm_started_and_stopped_early(first: SimpleNamespace, ray_head: str) -> None:
    """On two cores one trial fits at once; both its workers are kept for the next."""
    settings = ["run.resources.workers=2", "run.epochs=3", "objective=val_top1", "seeds=1", "warm_start=[first]"]
    settings += ["scheduler={name: asha, grace: 1, reduction: 2}", "sampler={name: tpe, startup: 3}", "baselines=[]"]
    arguments = ["space.yaml", "--sweep", "sweep.yaml", "--name", "second", "--trials", "4", "--set", *settings]
    out = run(first.folder, ray_head, *arguments)
    assert "3 trials of first fit this search space and are known to the sampler." in out
    assert "A trial takes 2 workers with 1 CPU core and 0 GPUs each." in out
    found = children(first.folder, "second")
    assert sorted(found) == ["000", "001", "002", "003"]
    ended = {label: (child.data.tags["status"], int(child.data.metrics["epoch"])) for label, child in found.items()}
    assert set(ended.values()) <= {("completed", 3), ("stopped", 1), ("stopped", 2)}
    assert "stopped" in {status for status, _ in ended.values()}
    assert "completed" in {status for status, _ in ended.values()}
    assert {child.data.params["resources.workers"] for child in found.values()} == {"2"}
    mine = [pid for pid in processes() if str(first.folder) in pid]
    assert mine == []


def processes() -> list[str]:
    """The working folders of this user's processes of Ray: a sweep's are started in the sweep's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"ray" in (entry / "cmdline").read_bytes():
                    found.append(str((entry / "cwd").readlink()))
            except OSError:  # it has ended meanwhile, or is somebody else's
                continue
    return found
