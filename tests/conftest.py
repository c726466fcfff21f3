"""Set-up shared by all tests: one torch thread, quiet third parties, no traffic, small runs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from postgresql_server import postgresql  # noqa: F401 - fixture
from ray_head import ray_head  # noqa: F401 - fixture
from stores import gs, gs_server, s3, s3_server  # noqa: F401 - fixtures

# Before Ray and MLflow are imported anywhere: neither reports usage, and Ray starts nothing it does not need.
os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"})
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("RAY_ADDRESS", None)
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def modules_of_this_test_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forgets, after a test, what was imported from its folder: the next one's module of that name is another."""
    yield
    folder = f"{tmp_path_factory.getbasetemp()}{os.sep}"
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(folder):
            del sys.modules[name]


@pytest.fixture
def small_run() -> dict[str, Any]:
    """Content of a run that trains in a fraction of a second and learns something."""
    return {
        "rule": {"name": "information", "alpha": 1e-3, "beta": 1e-4, "gamma": 1e-3},
        "model": {"name": "mlp", "width": 16, "depth": 1},
        "data": {"name": "synthetic", "train": 128, "validation": 50, "test": 50, "image_size": 4, "channels": 1},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "epochs": 4,
        "batch_size": 32,
        "checkpoint": {"every": 1},
    }


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules draw their noise on the CPU, whose generator is seeded alike, and take it to where they compute."""
    from aln.signals import standard_noise_like as draw

    for module in ("signals", "rules.fixed", "rules.learned"):
        monkeypatch.setattr(f"aln.{module}.standard_noise_like", lambda x, kind: draw(x.cpu(), kind).to(x.device))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: making its tables takes seconds, copying it does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def workplace(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with an embedded MLflow store in it."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def client(workplace: Path) -> Any:
    """MLflow's own client on the working folder's store, to look at what was logged."""
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
