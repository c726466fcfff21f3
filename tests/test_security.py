"""What SECURITY.md forbids, tried."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aln import sweep, train, validate
from aln.command import runnable
from aln.errors import AlnError
from aln.preflight import shown
from aln.tracking import Tracker, ui_command, ui_page
from commands import command_lines

REPOSITORY = Path(__file__).parent.parent
SPACE = REPOSITORY / "search_spaces/information.yaml"
DIGITS = REPOSITORY / "sweeps/digits.yaml"
ESCAPES = [
    "../out",
    "..",
    ".",
    "/tmp/out",
    "a/../../out",
    "a/b",
    "~",
    "",
    "-rf",
    ".hidden",
    "a\nb",
    "a\0b",
    "ä" * 10,
    "a" * 101,
]
escaping = pytest.mark.parametrize("name", ESCAPES, ids=[f"{number}" for number in range(len(ESCAPES))])
# Names as the users of stores have them, and values that nothing else has.
SECRETS = {
    name: f"secret-{number}-7f3a9"
    for number, name in enumerate(
        ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN"]
    )
}


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


# Names ---------------------------------------------------------------------------------------------------------------


@escaping
@pytest.mark.parametrize(
    "command",
    [
        lambda name: sweep.main([str(SPACE), "--sweep", str(DIGITS), f"--name={name}"]),
        lambda name: sweep.main([f"--resume={name}"]) if name else 2,
        lambda name: train.main(["run.yaml", f"--name={name}"]) if name else 2,
        lambda name: train.main(["--resume", f"--name={name}"]),
    ],
    ids=["sweep", "resumed sweep", "run", "resumed run"],
)
def test_no_name_of_a_sweep_or_run_leaves_the_storage(
    workplace: Path, small_run: dict[str, Any], command: Any, name: str
) -> None:
    inner = workplace / "inner"
    inner.mkdir()
    os.chdir(inner)
    (inner / "run.yaml").write_text(yaml.safe_dump(small_run))
    before = files(workplace)
    assert command(name) == 2
    assert files(workplace) == before


def test_the_name_of_an_experiment_is_no_path(workplace: Path, small_run: dict[str, Any]) -> None:
    inner = workplace / "inner"
    inner.mkdir()
    shutil.move(workplace / "mlflow.db", inner)
    os.chdir(inner)
    (inner / "run.yaml").write_text(yaml.safe_dump({**small_run, "epochs": 1}))
    assert train.main(["run.yaml", "--name", "here", "--experiment", "../../out"]) == 0
    assert all(path.is_relative_to(inner) for path in files(workplace))
    assert not list(inner.rglob("out"))


@pytest.mark.parametrize("label", ["../../out", "..", "/tmp/out", "../out:Rule"])
def test_no_label_of_a_trial_leaves_the_storage(
    workplace: Path, capsys: pytest.CaptureFixture[str], label: str
) -> None:
    # Searched trials are numbered; a baseline is called as its rule is.
    before = files(workplace)
    settings = [f"baselines=[{json.dumps(label)}]"]
    assert sweep.main([str(SPACE), "--sweep", str(DIGITS), "--name", "inside", "--set", *settings]) == 2
    assert "baselines" in capsys.readouterr().err
    assert files(workplace) == before


def test_no_sweep_outside_the_storage_is_read_to_begin_with(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = workplace / "outside"
    outside.mkdir()
    (outside / "study.log").write_text("not a study")
    settings = ["warm_start=[../outside]", "run.model={name: mlp, width: 8}", "run.epochs=1"]
    assert sweep.main([str(SPACE), "--sweep", str(DIGITS), "--name", "inside", "--set", *settings]) == 2
    assert "'../outside' is neither a sweep in" in capsys.readouterr().err


# Pickles -------------------------------------------------------------------------------------------------------------


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(workplace: Path) -> Path:
    """The file that is there when a pickle has run."""
    return workplace / "marker"


def test_the_pickles_of_these_tests_run_when_they_are_loaded(marker: Path) -> None:
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists()


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_no_pickle_in_a_checkpoint_is_loaded(
    workplace: Path, marker: Path, capsys: pytest.CaptureFixture[str], save: Any
) -> None:
    save({"format": 1, "model": {}, "description": Evil(marker)}, workplace / "evil.pt")
    assert validate.main(["evil.pt"]) == 2
    assert "not a readable checkpoint" in capsys.readouterr().err
    assert not marker.exists()


def test_no_pickle_among_the_checkpoints_of_a_run_is_loaded(
    workplace: Path, marker: Path, small_run: dict[str, Any]
) -> None:
    (workplace / "run.yaml").write_text(yaml.safe_dump(small_run))
    assert train.main(["run.yaml", "--name", "mine"]) == 0
    newest = max((workplace / "results/mine/checkpoints").iterdir())
    torch.save({"format": 1, "description": Evil(marker)}, newest)
    assert train.main(["--resume", "--name", "mine"]) == 0
    assert not marker.exists()


def unsafe_calls(tree: ast.AST) -> Iterator[str]:
    """Calls that may unpickle what they read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "torch.load" and keywords.get("weights_only") != "True":
                yield called
            if called in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
                yield called
            if re.fullmatch(r"(c?pickle|cloudpickle|dill|joblib|shelve|marshal)\.(loads?|Unpickler|open)", called):
                yield called
            if called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle"):
                yield called


def test_nothing_else_in_the_package_unpickles() -> None:
    found = {
        (str(path.relative_to(REPOSITORY)), call)
        for path in (REPOSITORY / "aln").rglob("*.py")
        for call in unsafe_calls(ast.parse(path.read_text()))
    }
    # What a rule's contract makes itself, what workers of the same run say, and what was pickled a line before.
    ours = {"aln/testing/rule_checks.py", "aln/distributed.py", "aln/worker_group.py"}
    assert {path for path, _ in found if path not in ours and not _own_loader(path)} == set()
    assert {call for _, call in found} <= {"pickle.loads", "yaml.load"}


def _own_loader(path: str) -> bool:
    """Whether what a file's YAML is read by derives from the safe loader."""
    return "SafeLoader" in (REPOSITORY / path).read_text()


# MLflow --------------------------------------------------------------------------------------------------------------


def answer(port: int, host: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1")
    request.add_header("Host", host)
    try:
        return int(urllib.request.urlopen(request, timeout=30).status)
    except urllib.error.HTTPError as error:
        return error.code


def test_mlflow_as_printed_refuses_a_foreign_host(workplace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*shlex.split(runnable(ui_command(f"sqlite:///{workplace / 'mlflow.db'}"))), "--port", str(port)]
    with (workplace / "ui.log").open("w") as log:
        server = subprocess.Popen([*command, "--workers", "1"], stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 200
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert server.poll() is None, (workplace / "ui.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert answer(port, f"127.0.0.1:{port}") == 200
        assert answer(port, f"localhost:{port}") == 200
        assert answer(port, "rebound.example") == 403
    finally:
        os.killpg(server.pid, 15)
        server.wait()


# Secrets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "harmless"),
    [
        ("http://me:hidden@mlflow.example:5000/x", "http://me@mlflow.example:5000/x"),
        ("at postgresql://me:hidden@db/aln, too", "at postgresql://me@db/aln, too"),
        ("http://:hidden@host", "http://@host"),
        ("http://me:hid@den@host/x", "http://me@host/x"),
        ("postgresql+psycopg://me:hid/d@en@db/aln", "postgresql+psycopg://me@db/aln"),
        ("postgresql://db/aln?user=me&password=hid/den&a=b", "postgresql://db/aln?user=me&password=&a=b"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
    ],
)
def test_addresses_are_shown_without_passwords(address: str, harmless: str) -> None:
    assert shown(address) == harmless


def test_passwords_of_addresses_are_in_no_command_page_or_error(monkeypatch: pytest.MonkeyPatch) -> None:
    database = "postgresql://me:hidden@127.0.0.1:1/aln"
    assert ui_command(database) == 'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI" mlflow ui'
    assert runnable(ui_command(database)).endswith("mlflow ui")
    assert "hidden" not in ui_page("http://me:hidden@127.0.0.1:1", "1")
    for address in (database, "http://me:hidden@127.0.0.1:1", "postgresql://me:hid/den@127.0.0.1:1/aln"):
        with pytest.raises(AlnError, match=r"MLflow at .*127\.0\.0\.1:1") as caught:
            Tracker("x", address)
        assert "hid" not in str(caught.value)


def test_a_sweep_tells_no_secret_of_the_environment(empty_store: Path) -> None:
    """Not in its files, Ray's logs, MLflow, what it prints, or a command line while it runs."""
    with tempfile.TemporaryDirectory(prefix="aln", dir="/tmp") as name:  # names of sockets must be short
        folder = Path(name)
        shutil.copy(empty_store, folder / "mlflow.db")
        environment = {**os.environ, **SECRETS, "RAY_TMPDIR": name, "HOME": name}
        settings = ["run.model={name: mlp, width: 8}", "run.epochs=2", "baselines=[]", "scheduler.name=none"]
        command = [sys.executable, "-m", "aln.sweep", str(SPACE), "--sweep", str(DIGITS), "--trials", "1"]
        seen: set[str] = set()
        with (folder / "said.txt").open("w") as log:
            process = subprocess.Popen(
                [*command, "--name", "mine", "--set", *settings], cwd=folder, env=environment, stdout=log, stderr=log
            )
        watcher = threading.Thread(target=watch_command_lines, args=(process, seen))
        watcher.start()
        assert process.wait(timeout=280) == 0, (folder / "said.txt").read_text()
        watcher.join()
        assert any("raylet" in line for line in seen)
        assert not [line for line in seen if any(secret in line for secret in SECRETS.values())]
        texts = {path: path.read_bytes() for path in files(folder)}
        assert {"mlflow.db", "sweep.yaml", "study.log", "raylet.out"} <= {path.name for path in texts}
        assert not [path for path, text in texts.items() if any(s.encode() in text for s in SECRETS.values())]


def watch_command_lines(process: subprocess.Popen[bytes], seen: set[str]) -> None:
    """Collects the command lines of all processes of the machine while one of them runs."""
    while process.poll() is None:
        seen |= command_lines()
        time.sleep(0.5)


# Ray -----------------------------------------------------------------------------------------------------------------


def test_a_cluster_of_one_machine_has_no_dashboard(tmp_path: Path) -> None:
    program = (
        "from aln.cluster import joined_cluster\n"
        "with joined_cluster():\n"
        "    import ray\n"
        "    print(repr(ray.get_runtime_context().gcs_address), repr(ray._private.worker.get_dashboard_url()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] in ("''", "None")
