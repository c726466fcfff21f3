"""The benchmarks behind docs/scaling.md, run as a person runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from test_sweep_benchmarks import FOLDER, run


def test_every_store_takes_rows_and_reports(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "a.db")
    stores = ["--mlflow", f"here=sqlite:///{tmp_path}/a.db", "--studies", f"there=sqlite:///{tmp_path}/b.db"]
    done = run("store_rates.py", *stores, "--rounds", "1", "--out", str(tmp_path / "new/result.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "new/result.json").read_text())
    (rates,) = found["mlflow"].values()
    assert 0 < rates["rows_per_second_10"] < rates["rows_per_second_1000"]
    assert found["studies"].keys() == {"journal", "there"}
    assert all(study["milliseconds_per_report"] > 0 for study in found["studies"].values())


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("scaling") / "result.json"
    options = ["--gpus", "1", "1000", "--images-per-second", "1000", "--price", "2", "--epochs", "10"]
    done = run("scaling.py", *options, "--checkpoint-every", "10", "--kept", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_a_run_on_one_gpu_by_hand(scaling: dict[str, Any]) -> None:
    one = scaling["rows"][0]
    epoch = 1_281_167 / 1000 * 1.55
    assert one["epochs_per_second"] == pytest.approx(1 / epoch)
    assert one["gpu_hours_per_run"] == pytest.approx(10 * epoch / 3600)
    assert one["price_per_run"] == pytest.approx(2 * 10 * epoch / 3600)
    assert one["rows_per_second"] == pytest.approx((8 + 21 + 10 * 21 / 10) / epoch)
    checkpoint = 16 * 11_689_512
    assert one["checkpoint_megabytes_per_second"] == pytest.approx(checkpoint / epoch / 10 / 1e6)
    assert one["checkpoint_terabytes_per_1000_runs"] == pytest.approx(2000 * checkpoint / 1e12)
    assert one["runs_per_day"] == pytest.approx(86_400 / (10 * epoch))


def test_a_thousand_gpus_ask_a_thousand_times_as_much_until_something_is_full(scaling: dict[str, Any]) -> None:
    one, many = scaling["rows"]
    per_run = {"gpu_hours_per_run", "price_per_run", "checkpoint_terabytes_per_1000_runs"}
    for key, value in one.items():
        assert many[key] == pytest.approx(value if key in per_run else 1000 * value), key
    assert scaling["full_at_gpus"]["mlflow"] == pytest.approx(1000 / many["share_of_mlflow"])


def test_the_documents_figures_are_those_of_the_results() -> None:
    text = (FOLDER.parent / "docs/scaling.md").read_text()
    rates = json.loads((FOLDER / "results/store_rates.json").read_text())
    for store in rates["mlflow"].values():
        assert f"| {store['rows_per_second_10']:,.0f} | {store['rows_per_second_1000']:,.0f} |" in text
    assert f"after {rates['studies']['journal']['milliseconds_per_report']:.1f} ms" in text
    last = json.loads((FOLDER / "results/scaling.json").read_text())["rows"][-1]
    assert last["gpus"] == 1000
    for key in ("rows_per_second", "checkpoint_megabytes_per_second", "reading_gigabytes_per_second", "runs_per_day"):
        assert f" {last[key]:,.0f} |" in text
    assert f"{last['gpu_hours_per_run']:.1f} GPU-hours, {last['price_per_run']:.2f}" in text


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("store_rates.py", ["--mlflow", "nowhere"], "error: nowhere: expected NAME=URI"),
        ("store_rates.py", ["--rounds", "0"], "error: --rounds 0: expected at least 1"),
        ("scaling.py", ["--price", "0", "--gpus", "-1"], "error: --price 0: expected more than 0"),
    ],
)
def test_mistakes_in_what_is_measured_are_named(script: str, arguments: list[str], message: str) -> None:
    done = run(script, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
