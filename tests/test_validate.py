"""`python -m aln.validate`: the accuracy of checkpoints, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from aln import train, validate
from aln.build import build, evaluate_split
from aln.checkpoint import CHECKPOINT
from aln.checkpoint_folder import CheckpointFolder
from aln.config import dump, parse_run
from aln.engine import fit

# Naming a data set drops the options of the one that the checkpoint names.
SAME = ["data.image_size=4", "data.channels=1"]


@pytest.fixture
def trained(workplace: Path, small_run: dict[str, Any]) -> Path:
    """A folder with the single checkpoint of a trained run."""
    run = build(parse_run(small_run))
    list(fit(run.state, run.source, run.settings))
    run.state.save(workplace / "single" / CHECKPOINT)
    return workplace / "single"


@pytest.fixture
def run_folder(workplace: Path, small_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `aln.train` leaves of a run called `long`."""
    (workplace / "run.yaml").write_text(dump({**small_run, "checkpoint": {"every": 1, "keep_last": 4}}))
    assert train.main(["run.yaml", "--name", "long"]) == 0
    return workplace / "results/long"


def test_a_run_is_found_by_its_folder_and_by_its_name_in_mlflow(
    run_folder: Path, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = client.search_runs([client.get_experiment_by_name("synthetic").experiment_id])
    answers = set()
    for named in (
        [str(run_folder)],
        [str(run_folder / "checkpoints")],
        ["--checkpoint", "long"],
        [source.info.run_id],
    ):
        capsys.readouterr()
        assert validate.main([*named, "--split", "test", "--no-log"]) == 0
        answers.add(capsys.readouterr().out)
    (answer,) = answers
    assert f"top-1 {source.data.metrics['test_top1']:.2f} %" in answer


def test_the_best_checkpoint_may_be_asked_for(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = CheckpointFolder(run_folder / "checkpoints")
    best = folder.best()
    assert best is not None
    for path in (run_folder / "checkpoints").iterdir():  # the newest becomes one without a score
        if path.name.startswith("epoch00004"):
            path.rename(path.with_name("epoch00004-step0000000.pt"))
    assert validate.main([str(run_folder), "--best", "--no-log"]) == 0
    expected = CheckpointFolder(run_folder / "checkpoints").best()
    assert expected is not None
    assert f"top-1 {expected.saved.score:.2f} %" in capsys.readouterr().out


def test_everything_is_logged_to_a_run_of_its_own(
    trained: Path, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate.main([str(trained), "--split", "test"]) == 0
    out = capsys.readouterr().out
    (run,) = client.search_runs([client.get_experiment_by_name("synthetic").experiment_id])
    assert run.data.tags["kind"] == "validation"
    assert run.data.tags["checkpoint"] == str(trained / CHECKPOINT)
    assert run.info.status == "FINISHED"
    assert f"top-1 {run.data.metrics['test_top1']:.2f} %, top-5 {run.data.metrics['test_top5']:.2f} %" in out
    assert run.data.metrics["epoch"] == 4
    for layer in ("1", "3"):
        assert re.search(rf"{layer} .* {run.data.metrics[f'angle/{layer}']:.1f} ", out)
    assert "gradient_angle/1" in run.data.metrics
    assert f"experiments/{run.info.experiment_id}" in out


def test_a_name_that_is_neither_file_nor_run_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate.main(["nothing"]) == 2
    assert "nothing: no such checkpoint, neither a file nor a sweep nor an MLflow run" in capsys.readouterr().err
    (workplace / "empty").mkdir()
    assert validate.main(["empty"]) == 2
    assert "empty: no such checkpoint (looked in empty/checkpoints, empty)" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["validation", "test"])
def test_it_prints_what_the_trained_run_itself_has(
    trained: Path, small_run: dict[str, Any], capsys: pytest.CaptureFixture[str], split: Any
) -> None:
    run = build(parse_run(small_run))
    run.state.load(trained / CHECKPOINT)
    expected = evaluate_split(run, split)
    assert expected.top1 > 20  # of ten classes: the weights are the trained ones
    for path in (trained, trained / CHECKPOINT):
        assert validate.main([str(path), "--split", split, "--no-log"]) == 0
        assert (
            f"top-1 {expected.top1:.2f} %, top-5 {expected.top5:.2f} %, loss {expected.loss:.4f}, 50 examples"
            in capsys.readouterr().out
        )


def test_another_data_set_may_be_named(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate.main([str(trained), "--data", "synthetic", "--set", "data.validation=31", *SAME, "--no-log"]) == 0
    assert "31 examples" in capsys.readouterr().out


def test_the_data_set_of_an_imported_checkpoint_must_be_named(
    trained: Path, small_run: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = build(parse_run(small_run))
    run.state.description = {key: value for key, value in run.state.description.items() if key != "data"}
    run.state.save(trained / "imported.pt")
    assert validate.main([str(trained / "imported.pt")]) == 2
    assert "names no data set; name one with --set data=" in capsys.readouterr().err
    data = "data={name: synthetic, image_size: 4, channels: 1, validation: 9}"
    assert validate.main([str(trained / "imported.pt"), "--set", data, "--no-log"]) == 0
    assert "9 examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["data.channels=3"],
            r"does not fit the data \(3 channels, 4×4 pixels, 10 classes\): 1\..*weight is \[16, 16\]",
        ),
        (["data.num_classes=3"], r"\(1 channels, 4×4 pixels, 3 classes\): .*weight is \[10, 16\], expected \[3, 16\]"),
        (["model=resnet8", "rule.alpha=1"], r"model: belongs to the checkpoint.*\n.*rule\.alpha: belongs to the"),
        (["epochs=3"], r"--set: epochs: belongs to the checkpoint; expected a key of data, compute"),
        (["data=digtis"], r"did you mean 'digits'"),
        (["data.chanels=3"], r"did you mean 'data\.channels'"),
        (["data"], r"expected key=value"),
    ],
)
def test_what_does_not_fit_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str], settings: list[str], message: str
) -> None:
    assert validate.main([str(trained), "--set", *settings]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err)
    assert not captured.out


def test_a_missing_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate.main([str(tmp_path / "gone.pt")]) == 2
    assert "gone.pt: no such checkpoint" in capsys.readouterr().err
