"""A real MLflow server that asks for users and passwords, and what `aln` says and does there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import yaml
from mlflow import MlflowClient

from aln import train, validate
from aln.errors import AlnError
from aln.tracking import Tracker, find_runs
from mlflow_server import free_port, served

ADMIN, MEMBER = ("admin", "admin-7f3a9-password"), ("member", "member-7f3a9-password")
USERNAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[SimpleNamespace]:
    """A server with an administrator, who has the experiment `theirs`, and another user, who may only read it."""
    pytest.importorskip("flask_wtf", reason="needs mlflow[auth]")
    folder, port = tmp_path_factory.mktemp("passwords"), free_port()
    settings = f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/users.db\n"
    settings += f"admin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
    settings += "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    (folder / "auth.ini").write_text(settings)
    secret = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of these tests"}
    store = f"sqlite:///{folder / 'mlflow.db'}"
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    with (
        served(folder, port, store, "--app-name", "basic-auth", environment=secret) as uri,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(USERNAME, ADMIN[0])
        patch.setenv(PASSWORD, ADMIN[1])
        member = dict(zip(("username", "password"), MEMBER, strict=True))
        requests.post(f"{uri}/api/2.0/mlflow/users/create", json=member, auth=ADMIN, timeout=60).raise_for_status()
        MlflowClient(uri).create_experiment("theirs")
        patch.undo()
        yield SimpleNamespace(uri=uri, store=store, port=port)


@pytest.fixture
def begin(workplace: Path, server: SimpleNamespace, small_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains one epoch with MLflow on that server, in the name of a user if one is given; returns the exit code."""

    def begin(user: tuple[str, str] | None, experiment: str, uri: str = server.uri) -> int:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        for name, value in zip((USERNAME, PASSWORD), user or (), strict=False):
            monkeypatch.setenv(name, value)
        (workplace / "run.yaml").write_text(yaml.safe_dump({**small_run, "epochs": 1}))
        return train.main(["run.yaml", "--name", "mine", "--experiment", experiment])

    return begin


@pytest.mark.parametrize("user", [None, (MEMBER[0], "wrong-7f3a9")], ids=["nobody", "a wrong password"])
def test_who_is_not_known_hears_it_before_anything_starts(
    begin: Any, workplace: Path, capsys: pytest.CaptureFixture[str], user: Any
) -> None:
    assert begin(user, "mine") == 2
    said = capsys.readouterr().err
    assert "asks for a user and a password that it knows: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in said
    assert len(said.splitlines()) == 1
    assert "7f3a9" not in said
    assert not (workplace / "results").exists()


def test_who_may_not_write_hears_it_before_anything_starts(
    begin: Any, workplace: Path, server: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert begin(MEMBER, "theirs") == 2
    assert f"MLflow at {server.uri} forbids what is needed of experiment 'theirs': " in capsys.readouterr().err
    assert not (workplace / "results").exists()
    assert begin(ADMIN, "theirs") == 0


@pytest.mark.parametrize("given", ["in the environment", "in the address"])
def test_who_is_known_trains_and_no_password_is_left(
    begin: Any, workplace: Path, server: SimpleNamespace, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    name, password = MEMBER
    if given == "in the address":
        assert begin(None, given, f"http://{name}:{password}@127.0.0.1:{server.port}") == 0
    else:
        assert begin(MEMBER, given) == 0
    assert validate.main(["mine"]) == 0
    said = capsys.readouterr()
    assert "7f3a9" not in said.out + said.err
    client = MlflowClient(server.store)
    runs = client.search_runs([client.get_experiment_by_name(given).experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not [run for run in runs if "7f3a9" in str(run.to_dictionary())]
    files = [path for path in workplace.rglob("*") if path.is_file()]
    assert "mlflow.spool" in {path.name for path in files}
    assert not [path for path in files if b"7f3a9" in path.read_bytes()]


def test_whoever_asks_for_runs_of_a_name_must_be_known(server: SimpleNamespace) -> None:
    with pytest.raises(AlnError, match="asks for a user and a password that it knows"):
        find_runs("mine", server.uri)


def test_a_password_in_the_address_of_a_server_that_goes_away_is_not_told(workplace: Path, empty_store: Path) -> None:
    port = free_port()
    with served(workplace, port, f"sqlite:///{workplace / 'mlflow.db'}"):
        tracker = Tracker("test", f"http://me:hidden-7f3a9@127.0.0.1:{port}", workplace / "spool")
    tracker.run("x", {"kind": "run"}).tag(seen="no")
    missing = tracker.close(3)
    assert f"MLflow at http://me@127.0.0.1:{port} cannot be written to (API request to http://me@127.0.0.1" in missing
    assert "7f3a9" not in missing
    assert b"7f3a9" not in (workplace / "spool").read_bytes()
