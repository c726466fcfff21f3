"""A sweep on a cluster of three hosts, of which one is cut off and two die, the head last: `make test-cluster`."""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hosts import TOOLS, Host, started_hosts, until
from laptop import SECRET, Access, Laptop, install, object_store, prepared

_T = TypeVar("_T")

TRIALS, MORE, EPOCHS = 10, 24, 120
SWEEP = (
    f"python -m aln.sweep search_spaces/information.yaml --name three --trials {TRIALS} --set baselines=[] "
    f"max_concurrent=5 scheduler.name=none run.epochs={EPOCHS} 'run.model={{name: mlp, width: 16}}' "
    "run.optimizer.lr=0.005 'run.checkpoint={every: 1, keep_last: 120}' run.alignment.every=0 storage=$ALN_STORAGE"
)
# A head waits for a silent host, and a host for a silent head, for a minute and more unless told otherwise.
IMPATIENT = """
export LANG=C.UTF-8
export RAY_gcs_rpc_server_reconnect_timeout_s=30
export RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=5000 RAY_health_check_failure_threshold=3
"""
RESUME = "cd ~/aln && exec python -m aln.sweep --resume three {more} --set storage=$ALN_STORAGE"
ADDRESSES = {"head": "10.77.0.10", "one": "10.77.0.11", "two": "10.77.0.12"}

missing = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.skipif("ALN_THREE_HOSTS" not in os.environ, reason="takes minutes and root: make test-cluster"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
    pytest.mark.timeout(1500),
]


@dataclass
class Loss:
    """A host that was lost.

    Attributes:
        host: its name.
        left: trials that it trained, with the epoch of their last checkpoint; of the head, those that were under way
            anywhere, with the epoch that the study in the bucket knows.
        before: checkpoints read and written until then.
    """

    host: str
    left: dict[str, int]
    before: int


@dataclass
class Story:
    """What there was to see; see the tests."""

    times: dict[str, float] = field(default_factory=dict)
    listeners: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    strangers: dict[str, Any] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    commands: set[str] = field(default_factory=set)
    job: dict[str, Any] = field(default_factory=dict)
    accesses: list[Access] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    steps: dict[str, list[int]] = field(default_factory=dict)
    results: set[str] = field(default_factory=set)
    said: str = ""
    resumed: str = ""
    runs_resumed: int = 0
    after_head: str = ""
    runs_after_head: list[dict[str, Any]] = field(default_factory=list)
    steps_after_head: dict[str, list[int]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    token: str = ""
    left: dict[str, dict[int, str]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """The whole of it, once."""
    with started_hosts(ADDRESSES, IMPATIENT) as hosts, object_store(hosts):
        laptop = prepared(hosts)
        story = Story(token=laptop.token)
        began = time.monotonic()
        try:
            for step in (_start, _knock_without_a_token, _submit, _lose_two, _finish, _resume, _lose_head, _end):
                step(laptop, story)
                story.times[step.__name__] = round(time.monotonic() - began, 1)
        except BaseException:
            print(story.times, *(f"{path}\n{path.read_text()[-3000:]}" for path in hosts.root.glob("*.log")), sep="\n")
            print((hosts.root / "head/ray").exists() and _driver_said(laptop))
            raise
        print(story.times)
        yield story


def _start(laptop: Laptop, story: Story) -> None:
    laptop.ray("up", "--yes", "--no-config-cache", str(laptop.config))
    hosts = laptop.hosts.hosts.values()
    until(lambda: all(_runs(host, "/raylet ") for host in hosts), 240, "Ray on all hosts")
    story.listeners = {host.name: host.listeners() for host in hosts}


def _knock_without_a_token(laptop: Laptop, story: Story) -> None:
    """What the head answers to somebody on the cluster's network who has no token, a wrong one, or no business."""
    for who, headers in {
        "nobody": {},
        "wrong": {"Authorization": "Bearer " + "0" * 32},
        "ours": {"Authorization": f"Bearer {laptop.token}"},
    }.items():
        story.strangers[f"dashboard, {who}"] = laptop.ask(8265, "/api/jobs/", headers=headers)[0]
    for host in ("127.0.0.1:5000", "rebound.example:5000"):
        path = "/api/2.0/mlflow/experiments/search"
        story.strangers[f"mlflow as {host}"] = laptop.ask(5000, path, {"max_results": 1}, {"Host": host})[0]


def _submit(laptop: Laptop, story: Story) -> None:
    """From the laptop, which is closed then."""
    with laptop.dashboard() as address:
        command = ["job", "submit", "--address", address, "--no-wait", "--submission-id", "three"]
        laptop.ray(*command, "--", "bash", "-c", f"cd ~/aln && exec {SWEEP}")


def _lose_two(laptop: Laptop, story: Story) -> None:
    """One host is cut off as soon as all of them train, another one is killed when the first one's trials go on."""
    trains = {name: lambda name=name: bool(_trained_on(name, laptop.accesses())) for name in ADDRESSES}
    for name, condition in trains.items():
        _until(laptop, condition, 300, f"a trial on {name}")
    for host, lose in (("one", Host.cut_off), ("two", Host.kill)):
        _until(laptop, lambda host=host: bool(_trained_on(host, laptop.accesses())), 300, f"a trial on {host}")
        for one in laptop.hosts.hosts.values():
            story.commands |= set(one.processes().values())
        lose(laptop.hosts.hosts[host])
        time.sleep(1)  # what was on its way has arrived
        accesses = laptop.accesses()
        loss = Loss(host, _trained_on(host, accesses), len(accesses))
        story.losses.append(loss)
        _until(laptop, lambda loss=loss: _going_on(loss, laptop.accesses()), 300, f"the trials of {host} elsewhere")
    laptop.hosts.hosts["one"].let_in()


def _finish(laptop: Laptop, story: Story) -> None:
    until(lambda: laptop.job("three")["status"] in ("SUCCEEDED", "FAILED", "STOPPED"), 900, "the end of the sweep")
    story.job, story.said, story.accesses = laptop.job("three"), _driver_said(laptop), laptop.accesses()
    story.results = {path.name for path in (laptop.hosts.hosts["head"].home / "aln/results/three").iterdir()}
    story.runs = _mlflow_runs(laptop)
    story.steps = _mlflow_steps(laptop, story.runs)


def _resume(laptop: Laptop, story: Story) -> None:
    """On the head itself, with no address in the environment."""
    story.resumed = laptop.ray("exec", str(laptop.config), RESUME.format(more=""))
    story.runs_resumed = len(_mlflow_runs(laptop))


def _lose_head(laptop: Laptop, story: Story) -> None:
    """The head's machine dies, with the driver of a sweep that has more to do, and another one takes its place."""
    with laptop.dashboard() as address:
        command = ["job", "submit", "--address", address, "--no-wait", "--submission-id", "more"]
        laptop.ray(*command, "--", "bash", "-c", RESUME.format(more=f"--trials {TRIALS + MORE}"))

    def known() -> dict[str, int]:
        """Trials of these 24 that are under way, in whose midst the study was copied."""
        under_way = {trial for host in ADDRESSES for trial in _trained_on(host, laptop.accesses())}
        new = {trial: epoch for trial, epoch in laptop.known().items() if int(trial) >= TRIALS}
        return {trial: epoch for trial, epoch in new.items() if trial in under_way and epoch >= 3}

    left = _until(laptop, known, 300, "a copy of the study that knows of trials under way", job="more")
    story.losses.append(Loss("head", left, len(laptop.accesses())))
    laptop.hosts.hosts["head"].kill()
    laptop.hosts.boot("head", ADDRESSES["head"])
    install(laptop.hosts.hosts["head"].home)
    laptop.ray("down", "--yes", str(laptop.config))
    laptop.ray("up", "--yes", "--no-config-cache", str(laptop.config))
    story.after_head = laptop.ray("exec", str(laptop.config), RESUME.format(more=""), seconds=600)
    story.accesses = laptop.accesses()
    story.runs_after_head = _mlflow_runs(laptop)
    story.steps_after_head = _mlflow_steps(laptop, story.runs_after_head)


def _end(laptop: Laptop, story: Story) -> None:
    hosts = laptop.hosts.hosts
    for head in ("head-lost", "head"):
        for place in ("home/aln/results", "home/mlflow", "ray"):
            for path in (laptop.hosts.root / head / place).rglob("*"):
                if path.is_file() and not path.is_symlink():
                    story.texts[str(path)] = path.read_bytes().decode(errors="replace")
    laptop.ray("down", "--yes", str(laptop.config))
    there = [hosts["head"], hosts["one"]]
    try:
        # A worker ends by itself when its head has been gone for a minute.
        until(lambda: not any(host.processes() for host in there), 180, "the end of all processes")
    except AssertionError:
        story.left = {host.name: host.processes() for host in there}


def _runs(host: Host, words: str) -> bool:
    return any(words in command for command in host.processes().values())


def _until(laptop: Laptop, condition: Callable[[], _T], seconds: float, what: str, job: str = "three") -> _T:
    """As `until`, but a sweep that has ended is not waited for."""

    def come() -> _T:
        found = condition()
        assert found or laptop.job(job)["status"] in ("PENDING", "RUNNING"), f"no {what}; the sweep has ended"
        return found

    return until(come, seconds, what)


def _trained_on(host: str, accesses: list[Access]) -> dict[str, int]:
    """Trials that a host is in the midst of, and the epoch of their last checkpoint."""
    last = {access.trial: access for access in accesses if access.written}
    return {trial: at.epoch for trial, at in last.items() if at.host == host and 3 <= at.epoch < 0.8 * EPOCHS}


def _going_on(loss: Loss, accesses: list[Access]) -> bool:
    written = {access.trial for access in accesses[loss.before :] if access.written}
    return bool(loss.left.keys() & written)


def _driver_said(laptop: Laptop) -> str:
    logs = (laptop.hosts.root / "head/ray").glob("session_2*/logs/job-driver-three.log")
    return "".join(path.read_text(errors="replace") for path in logs)


def _mlflow_runs(laptop: Laptop) -> list[dict[str, Any]]:
    experiment = laptop.mlflow("experiments/get-by-name?experiment_name=digits")["experiment"]["experiment_id"]
    found = laptop.mlflow("runs/search", {"experiment_ids": [experiment], "max_results": 1000})
    runs: list[dict[str, Any]] = found["runs"]
    return runs


def _mlflow_steps(laptop: Laptop, runs: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Epochs whose validation accuracy MLflow holds, by trial; a trial that two runs have fails."""
    found: dict[str, list[int]] = {}
    for run in runs:
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        if "trial" in tags:
            assert tags["trial"] not in found
            path = f"metrics/get-history?run_id={run['info']['run_id']}&metric_key=val_top1"
            found[tags["trial"]] = [int(one.get("step", 0)) for one in laptop.mlflow(path)["metrics"]]
    return found


def test_trials_ran_on_all_hosts(story: Story) -> None:
    assert {access.host for access in story.accesses if access.written} == set(ADDRESSES)


def test_the_sweep_says_where_it_runs(story: Story) -> None:
    cores = 3 * (os.cpu_count() or 1)
    assert f"Running on the Ray cluster at 10.77.0.10:6379 with {cores} CPU cores and 0 GPUs" in story.said


def test_the_sweep_ended_whole(story: Story) -> None:
    assert story.job["status"] == "SUCCEEDED", story.said
    assert f"Trials: {TRIALS} completed." in story.said
    assert {"best.yaml", "trials.csv", "plots", "study.log"} <= story.results


def test_every_trial_is_one_run_in_the_heads_mlflow_with_each_epoch_once(story: Story) -> None:
    assert len(story.runs) == TRIALS + 1
    assert {run["info"]["status"] for run in story.runs} == {"FINISHED"}
    assert story.steps.keys() == {f"{trial:03d}" for trial in range(TRIALS)}
    for steps in story.steps.values():
        assert sorted(steps) == list(range(1, EPOCHS + 1))


def test_trials_of_lost_hosts_went_on_elsewhere_from_their_checkpoints(story: Story) -> None:
    assert [loss.host for loss in story.losses] == ["one", "two", "head"]
    for loss in story.losses[:2]:
        assert loss.left
        for trial, epoch in loss.left.items():
            after = [access for access in story.accesses[loss.before :] if access.trial == trial]
            first = next(access for access in after if access.written)
            assert first.host not in (loss.host, "one")
            assert first.epoch == epoch + 1
            read = [access for access in after[: after.index(first)] if access.host == first.host]
            assert epoch in {access.epoch for access in read}


def test_no_epoch_was_saved_twice_but_the_one_that_a_host_was_at_when_it_was_cut_off(story: Story) -> None:
    cut_off = story.losses[0]
    written = defaultdict(list)
    for at, access in enumerate(story.accesses):
        late = at >= cut_off.before and access.host == cut_off.host and access.trial in cut_off.left
        if access.written and late:  # when it is let in again, before it hears that the others went on without it
            assert access.epoch == cut_off.left[access.trial] + 1
        elif access.written and int(access.trial) < TRIALS:
            written[access.trial].append(access.epoch)
    assert len(written) == TRIALS
    assert {trial: epochs for trial, epochs in written.items() if epochs != list(range(1, EPOCHS + 1))} == {}


def test_on_the_head_the_sweep_is_resumed_on_the_running_cluster_and_nothing_is_doubled(story: Story) -> None:
    assert "Running on the Ray cluster at 10.77.0.10:6379" in story.resumed
    assert f"{TRIALS} of its trainings have ended." in story.resumed, story.resumed
    assert story.runs_resumed == TRIALS + 1


def test_on_a_new_head_trials_go_on_from_the_checkpoints_that_the_copied_study_knows(story: Story) -> None:
    loss = story.losses[2]
    assert loss.left
    for trial in loss.left:
        after = [access for access in story.accesses[loss.before :] if access.trial == trial]
        begun = next(at for at, access in enumerate(after) if not access.written)
        first = next(access for access in after[begun:] if access.written)
        read = {access.epoch for access in after[begun:] if not access.written}
        assert first.epoch > 1
        assert first.epoch - 1 in read
        last = [access.epoch for access in after[begun:] if access.written]
        assert last == list(range(first.epoch, EPOCHS + 1))


def test_on_a_new_head_the_sweep_ends_whole(story: Story) -> None:
    assert f"Trials: {TRIALS + MORE} completed." in story.after_head, story.after_head
    assert {run["info"]["status"] for run in story.runs_after_head} == {"FINISHED"}


def test_a_new_heads_mlflow_hears_of_every_epoch_of_all_trials(story: Story) -> None:
    assert "MLflow had no run of " in story.after_head
    assert len(story.runs_after_head) == TRIALS + MORE + 1
    assert story.steps_after_head.keys() == {f"{trial:03d}" for trial in range(TRIALS + MORE)}
    for steps in story.steps_after_head.values():
        assert sorted(steps) == list(range(1, EPOCHS + 1))


def test_down_leaves_no_process(story: Story) -> None:
    assert story.left == {}


def test_dashboard_and_mlflow_listen_on_loopback_alone(story: Story) -> None:
    for port in (8265, 5000):
        assert {address for address, at in story.listeners["head"] if at == port} == {"127.0.0.1"}


def test_who_has_no_token_is_refused_and_so_is_a_foreign_host_header(story: Story) -> None:
    assert story.strangers == {
        "dashboard, nobody": 401,
        "dashboard, wrong": 403,
        "dashboard, ours": 200,
        "mlflow as 127.0.0.1:5000": 200,
        "mlflow as rebound.example:5000": 403,
    }


def test_no_secret_is_in_a_command_line_a_log_a_result_or_mlflow(story: Story) -> None:
    assert any("mlflow server" in command for command in story.commands)
    secrets = (SECRET, story.token)
    assert not [command for command in story.commands if any(secret in command for secret in secrets)]
    assert any(path.endswith("mlflow.db") for path in story.texts)
    assert any(path.endswith("job-driver-three.log") for path in story.texts)
    assert not [path for path, text in story.texts.items() if any(secret in text for secret in secrets)]
