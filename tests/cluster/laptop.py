"""A person at a laptop, with a cluster of three hosts: starts it, submits a sweep, looks at what it left."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hosts import LAPTOP, Hosts, end, until

REPOSITORY = Path(__file__).parents[2]
BUCKET = "bucket"
SECRET = secrets.token_hex(20)  # of the object store, in the environment of every host

# Where the object store is, and what lets one in: `~/.aln.env`.
VARIABLES = f"""
AWS_ENDPOINT_URL=http://{LAPTOP}:5000
AWS_ACCESS_KEY_ID=key
AWS_SECRET_ACCESS_KEY={SECRET}
AWS_EC2_METADATA_DISABLED=true
"""

_ASK = """
import json, sys, urllib.error, urllib.request
url, body, headers = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
content = None if body is None else json.dumps(body).encode()
request = urllib.request.Request(url, content, {"Content-Type": "application/json", **headers})
try:
    answer = urllib.request.urlopen(request, timeout=60)
    print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
"""
# The object store wants a signature, and does not look whether it is right.
_SIGNATURE = "Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
_SIGNED = {"Authorization": f"AWS4-HMAC-SHA256 {_SIGNATURE}"}
_ACCESS = re.compile(
    rf'^([\d.]+) - - \[.*?\] "(GET|PUT|POST) /{BUCKET}/\S*?/trials/(\w+)/checkpoints/epoch(\d+)-\S* HTTP'
)


@dataclass(frozen=True)
class Access:
    """A host's reading or writing of a checkpoint."""

    host: str
    written: bool
    trial: str
    epoch: int


@dataclass
class Laptop:
    """Where commands are typed.

    Attributes:
        config: the cluster's file, `cluster.local.yaml` with its block edited.
        token: of the Ray cluster.
    """

    hosts: Hosts
    config: Path
    token: str

    def ray(self, *arguments: str, seconds: float = 300) -> str:
        """What `ray` says, in the project's folder. Raises `AssertionError` if it fails."""
        log = self.hosts.root / f"ray-{arguments[0]}.log"
        before = log.stat().st_size if log.exists() else 0
        process = self.hosts.on_laptop(["ray", *arguments], REPOSITORY, log)
        try:
            code = process.wait(timeout=seconds)
        finally:
            process.kill()
        said = log.read_bytes()[before:].decode(errors="replace")
        assert code == 0, said
        return said

    @contextlib.contextmanager
    def dashboard(self) -> Iterator[str]:
        """`ray dashboard`: the head's dashboard on the laptop's loopback, while this is open."""
        process = self.hosts.on_laptop(
            ["ray", "dashboard", str(self.config)], REPOSITORY, self.hosts.root / "dashboard.log"
        )
        try:
            until(self._reaches_dashboard, 60, "the dashboard on the laptop")
            yield "http://127.0.0.1:8265"
        finally:
            end(process)

    def _reaches_dashboard(self) -> bool:
        try:
            self._ask_from_here("http://127.0.0.1:8265/api/version", {})
        except subprocess.CalledProcessError:
            return False
        return True

    def _ask_from_here(self, url: str, headers: dict[str, str]) -> tuple[int, str]:
        """Status and content of what the laptop is answered. Raises `CalledProcessError` if nothing answers."""
        command = ["ip", "netns", "exec", self.hosts.bridge, sys.executable, "-c", _ASK]
        command += [url, "null", json.dumps(headers)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        status, content = json.loads(said)
        return status, content

    def ask(self, port: int, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and content of what the head answers on its own loopback."""
        url = f"http://127.0.0.1:{port}{path}"
        said = self.hosts.hosts["head"].ask(_ASK, url, json.dumps(body), json.dumps(headers or {}))
        status, content = json.loads(said)
        return status, content

    def mlflow(self, path: str, body: Any = None) -> Any:
        """What MLflow's own interface answers, through the head."""
        status, content = self.ask(5000, f"/api/2.0/mlflow/{path}", body)
        assert status == 200, content
        return json.loads(content)

    def job(self, name: str) -> dict[str, Any]:
        """What Ray knows of a job."""
        status, content = self.ask(8265, f"/api/jobs/{name}", headers={"Authorization": f"Bearer {self.token}"})
        assert status == 200, content
        found: dict[str, Any] = json.loads(content)
        return found

    def known(self) -> dict[str, int]:
        """Epochs of each trial, as far as the copy of the sweep's study in the bucket knows them."""
        status, content = self._ask_from_here(f"http://{LAPTOP}:5000/{BUCKET}/aln/three/study.log", _SIGNED)
        labels: dict[int, str] = {}
        epochs: dict[int, int] = {}
        for line in content.splitlines() if status == 200 else []:
            entry = json.loads(line)
            said = entry.get("user_attr", {})
            if "label" in said:
                labels[entry["trial_id"]] = said["label"]
            elif "training0" in said:
                epochs[entry["trial_id"]] = int(said["training0"]["metrics"].get("epoch", 0))
        return {label: epochs.get(trial, 0) for trial, label in labels.items()}

    def accesses(self) -> list[Access]:
        """Every reading and writing of a checkpoint so far, as the object store saw it."""
        names = {host.address: host.name for host in self.hosts.hosts.values()}
        log = (self.hosts.root / "store.log").read_text(errors="replace")
        lines = re.sub(r"\x1b\[[0-9;]*m", "", log).splitlines()  # the server writes in colours
        found = [match for match in map(_ACCESS.match, lines) if match]
        return [Access(names[m[1]], m[2] != "GET", m[3], int(m[4])) for m in found]


@contextlib.contextmanager
def object_store(hosts: Hosts) -> Iterator[None]:
    """An S3 store on the laptop's address, with an empty bucket."""
    log = hosts.root / "store.log"
    program = str(Path(sys.executable).with_name("moto_server"))
    process = hosts.on_laptop([program, "-H", LAPTOP, "-p", "5000"], hosts.root, log)
    try:
        until(lambda: "Running on" in log.read_text(), 60, "the object store")
        make = f"import urllib.request as u; u.urlopen(u.Request('http://{LAPTOP}:5000/{BUCKET}', method='PUT'))"
        subprocess.run(["ip", "netns", "exec", hosts.bridge, sys.executable, "-c", make], check=True)
        yield
    finally:
        process.kill()
        process.wait()


def prepared(hosts: Hosts) -> Laptop:
    """A laptop that has the cluster's file, edited as its block says, and a token; hosts that have the environment."""
    config = yaml.safe_load((REPOSITORY / "cluster.local.yaml").read_text())
    head, *workers = hosts.hosts.values()
    config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    storage = config["provider"]["edit"]["storage"]
    at = config["setup_commands"].index(storage)
    config["setup_commands"][at] = re.sub(r"s3://\S+", f"s3://{BUCKET}/aln", storage)
    config["file_mounts"]["~/.aln.env"] = "~/.aln.env"
    (hosts.laptop / ".aln.env").write_text(VARIABLES)
    (hosts.laptop / ".aln.env").chmod(0o600)
    path = hosts.root / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    (hosts.laptop / ".ray").mkdir()
    token = hosts.laptop / ".ray/auth_token"
    token.write_text(secrets.token_hex(16))
    token.chmod(0o600)
    for host in hosts.hosts.values():
        install(host.home)
    return Laptop(hosts, path, token.read_text())


def install(home: Path) -> None:
    """This process's environment as the project's own, so that `make` finds it made: there is no network to make it."""
    own, ours = home / "aln/.venv", Path(sys.prefix)
    own.mkdir(parents=True)
    for name in ("bin", "lib", "pyvenv.cfg"):
        (own / name).symlink_to(ours / name)
    for stamp in (".installed", ".clustered"):
        (own / stamp).touch()
