"""`python -m aln.train`, as a person runs it."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from aln import train
from aln.checkpoint_folder import CheckpointFolder
from aln.config import dump, parse_document, parse_run
from commands import Command, run_command


def newest_epoch(folder: Path) -> int:
    """Epochs done in the newest checkpoint of a run's folder."""
    found = CheckpointFolder(folder / "checkpoints").newest()
    assert found is not None
    epoch: int = found.content["epoch"]
    return epoch


FAST = ["--set", "model=mlp", "epochs=3"]


def test_one_run_leaves_a_checkpoint_and_an_mlflow_run(
    workplace: Path, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["information", *FAST, "--name", "mine"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"epoch +3/3 +loss \d\.\d+ +val top-1 \d+\.\d\d %", out)
    assert "results/mine/checkpoints" in out
    assert newest_epoch(workplace / "results/mine") == 3
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.run_name == "mine"
    assert len(client.get_metric_history(run.info.run_id, "val_top1")) == 3
    assert f"Test top-1 {run.data.metrics['test_top1']:.2f} %" in out


def test_a_killed_run_is_resumed_to_the_metrics_of_an_undisturbed_one(
    workplace: Path, client: Any, small_run: dict[str, Any]
) -> None:
    content = {**small_run, "model": {"name": "resnet8", "width": 4}, "epochs": 30, "checkpoint": {"every": 4}}
    (workplace / "run.yaml").write_text(dump(content))
    process = Command(workplace, "aln.train", "run.yaml", "--name", "killed")
    assert process.wait_until(lambda: re.search(r"epoch +10/", process.out) is not None), process.out
    assert process.signal(signal.SIGKILL).returncode == -signal.SIGKILL
    assert 8 <= newest_epoch(workplace / "results/killed") < 30
    # The checkpoint describes the run.
    for arguments in (["--resume", "--name", "killed"], ["run.yaml", "--name", "whole"]):
        end = run_command(workplace, "aln.train", *arguments)
        assert end.returncode == 0, end.out
    histories = {}
    for run in client.search_runs([client.get_experiment_by_name("synthetic").experiment_id]):
        histories[run.info.run_name] = [
            (m.step, m.value)
            for m in sorted(client.get_metric_history(run.info.run_id, "val_loss"), key=lambda m: m.step)
        ]
        assert run.data.tags["status"] == "completed"
    assert histories.keys() == {"killed", "whole"}
    assert [step for step, _ in histories["whole"]] == list(range(1, 31))
    assert histories["killed"] == histories["whole"]


def test_resuming_another_configuration_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["backprop", *FAST, "--name", "mine"]) == 0
    assert train.main(["backprop", *FAST, "optimizer.lr=0.3", "--name", "mine", "--resume"]) == 2
    assert "optimizer.lr was 0.1 and is 0.3" in capsys.readouterr().err


def test_an_existing_run_is_not_overwritten(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "results/mine").mkdir(parents=True)
    assert train.main(["backprop", "--name", "mine"]) == 2
    assert "exists; continue it with --resume" in capsys.readouterr().err


def test_divergence_is_a_result_with_its_epoch(
    workplace: Path, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["backprop", *FAST, "optimizer.lr=1e18", "--name", "wild"]) == 1
    assert "Diverged in epoch 1" in capsys.readouterr().out
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.data.tags["status"] == "diverged"
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["informtion"], r"did you mean 'information'\?"),
        (["backprop", "--set", "epohcs=3"], r"epohcs: unknown key; did you mean 'epochs'\?"),
        (["backprop", "--set", "epochs"], r"--set: epochs: expected key=value"),
        (["backprop", "--name", "../out"], "--name: is '../out', expected"),
        (["backprop", "--set", "compute.device=cuda"], "compute.device is 'cuda', which this machine does not have"),
        (["backprop", "--set", "model={name: torchvision, builder: alexnet}"], "takes images of 3 channels"),
        (["backprop", "--resume", "--name", "none"], "no such checkpoint"),
        (["--resume", "--name", "none"], "no such checkpoint"),
        (["--resume"], "--name: is missing: --resume continues the run of that name"),
        ([], r"PRESET\|FILE: is missing \(presets: activation"),
        (["backprop", "--storage", "mlflow.db"], "mlflow.db/.* cannot be listed: Not a directory"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    workplace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert train.main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)
    assert {path.name for path in workplace.iterdir()} <= {"mlflow.db", "mlflow.db.lock"}


def test_an_unreachable_server_is_said_at_once(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert train.main(["backprop", *FAST]) == 2
    assert f"MLflow at {uri} cannot be reached" in capsys.readouterr().err
    assert [path.name for path in workplace.iterdir()] == ["mlflow.db"]


def test_a_dry_run_prints_the_whole_configuration(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["information", *FAST, "--dry-run"]) == 0
    printed = parse_document(capsys.readouterr().out)
    assert parse_run(printed) == parse_run({"rule": "information", "model": "mlp", "epochs": 3})
    assert [path.name for path in workplace.iterdir()] == ["mlflow.db"]
