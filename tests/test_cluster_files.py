"""`cluster.yaml` and `cluster.local.yaml`: what Ray makes of them, what they pin, and what they keep to themselves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

REPOSITORY = Path(__file__).parent.parent
FILES = [REPOSITORY / "cluster.yaml", REPOSITORY / "cluster.local.yaml"]
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)

KINDS = {"cluster.yaml": "aws", "cluster.local.yaml": "local"}

SMALL = ["--set", "run.model={name: mlp, width: 8}"]

# Commands may listen on, and the driver speak to, these alone.
LOOPBACK = {"127.0.0.1", "localhost"}
SECRETS = [
    r"\bA(?:KIA|SIA)[A-Z0-9]{16}\b",  # AWS's keys
    r"://[^/\s:@]+:[^/\s@]+@",  # a password in an address
    r"(?i)(?:secret|password|passwd|access_key)\w*\s*[=:]",
    r"-----BEGIN",
    r"\b[0-9a-f]{32,}\b",  # what Ray's tokens look like
]


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def commands(config: dict[str, Any]) -> str:
    """All that is run on machines."""
    return "\n".join(line for key, lines in config.items() if key.endswith("_commands") for line in lines)


@each_file
def test_rays_own_schema_takes_it(path: Path) -> None:
    validate_config(prepare_config(read(path)))


@each_file
def test_rays_own_schema_refuses_it_with_a_key_that_is_not_there(path: Path) -> None:
    with pytest.raises(Exception, match="idle_timeout_minuets"):
        validate_config(prepare_config({**read(path), "idle_timeout_minuets": 5}))


@each_file
def test_every_line_of_the_block_to_edit_has_a_comment(path: Path) -> None:
    block = re.search(r"# ---- Edit from here -+\n(.*)# ---- to here", path.read_text(), re.DOTALL)
    assert block
    settings = [line.strip() for line in block[1].splitlines() if not line.lstrip().startswith("#")]
    assert len(settings) > 8
    assert {line for line in settings if "#" not in line} == {
        "auth:",
        "provider:",
        "edit:",
        f"type: {KINDS[path.name]}",
    }


@each_file
def test_it_installs_what_constraints_pin_and_nothing_else(path: Path) -> None:
    text = commands(read(path))
    assert "make --silent --directory ~/aln cluster" in text
    assert not re.search(r"pip3? install|\buv\b|conda|curl|wget", text)
    assert not re.search(r"[=<>~]=\s*\d", text)
    printed = subprocess.run(
        ["make", "--always-make", "--dry-run", "cluster"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    installs = [line for line in printed.splitlines() if "pip install" in line]
    assert installs
    assert all("--constraint constraints.txt" in line for line in installs)


def test_constraints_pin_the_ray_that_these_files_were_checked_with() -> None:
    from importlib.metadata import requires, version

    from packaging.requirements import Requirement

    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
    assert pins["ray"] == version("ray")
    assert pins["boto3"] == version("boto3")
    normal = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    needed = [Requirement(line) for line in requires("ray") or []]
    of_default = [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": "default"})]
    assert len(of_default) > 10
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in of_default} <= normal


def test_what_they_sync_is_all_that_a_sweep_needs(tmp_path: Path) -> None:
    first, second = (read(path)["file_mounts"] for path in FILES)
    assert first == second
    mounts = {to: source for to, source in first.items() if to.startswith("~/aln/")}
    for to, source in mounts.items():
        place = tmp_path / to.removeprefix("~/aln/")
        if (REPOSITORY / source).is_dir():
            shutil.copytree(REPOSITORY / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / source, place)
    subprocess.run(["make", "--dry-run", "cluster"], cwd=tmp_path, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [sys.executable, "-m", "aln.sweep", "search_spaces/information.yaml", "--dry-run", *SMALL]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Results go to {tmp_path}/results/" in done.stdout


@each_file
def test_nothing_listens_beyond_the_clusters_network(path: Path) -> None:
    assert "0.0.0.0" not in path.read_text()
    text = commands(read(path))
    hosts = re.findall(r"--(?:dashboard-)?host[= ](\S+)", text)
    assert len(hosts) == 2
    assert set(hosts) <= LOOPBACK
    allowed = re.findall(r"--allowed-hosts[= ](\S+)", text)
    assert [{host.partition(":")[0] for host in names.split(",")} for names in allowed] == [LOOPBACK]
    assert "--disable-security-middleware" not in text
    assert set(re.findall(r"https?://([^:/\s]+)", text)) <= LOOPBACK


def test_on_aws_machines_have_the_groups_that_the_file_names() -> None:
    # Without, Ray makes a group of its own that lets the whole internet reach port 22.
    kinds = read(FILES[0])["available_node_types"]
    assert all(kind["node_config"]["SecurityGroupIds"] for kind in kinds.values())
    assert all(kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for kind in kinds.values())


@each_file
def test_ray_asks_for_a_token_that_only_its_owner_can_read(path: Path) -> None:
    config = read(path)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in line and ">> ~/.bashrc" in line for line in config["setup_commands"])


@each_file
@pytest.mark.parametrize("secret", SECRETS)
def test_it_holds_no_secret(path: Path, secret: str) -> None:
    assert not re.search(secret, path.read_text())


def test_workers_come_on_spot_first_and_on_demand_otherwise() -> None:
    config = read(FILES[0])
    head, spot, on_demand = (config["available_node_types"][kind] for kind in ("head", "gpu_spot", "gpu_on_demand"))
    assert config["head_node_type"] == "head"
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    assert spot["node_config"].pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot["node_config"] == on_demand["node_config"]
    assert spot["resources"] == on_demand["resources"]
    assert spot["priority"] > on_demand["priority"]
    assert spot["min_workers"] == on_demand["min_workers"] == 0
    # Version 1 of the autoscaler knows no priority: of equals it takes the last by name.
    assert max("gpu_spot", "gpu_on_demand") == "gpu_spot"


def test_the_aws_file_as_far_as_there_are_machines(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs root, unshare (util-linux) and ip (iproute2), for a network that has only loopback")
    if shutil.which("ssh") is None:
        pytest.skip("needs ssh, with which Ray knocks at the head")
    program = Path(__file__).with_name("aws_rehearsal.py")
    alone = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    inside = 'ip link set lo up; exec "$@"'
    command = [*alone, "bash", "-c", inside, "alone", sys.executable, str(program), str(FILES[0]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())

    # Ray made the head, and then nobody answered there.
    assert found["up"]["code"] == 1
    assert "Failed to setup head node" in found["up"]["out"]
    assert "Waiting for SSH to become available" in found["up"]["out"]
    config = read(FILES[0])["available_node_types"]
    (head,) = found["head"]
    assert head["type"] == config["head"]["node_config"]["InstanceType"]
    assert head["tags"]["ray-node-type"] == "head"
    assert not head["spot"]
    kinds = {machine["tags"]["ray-user-node-type"]: machine for machine in found["machines"]}
    assert kinds.keys() == {"head", "gpu_spot", "gpu_on_demand"}
    assert [kinds[kind]["spot"] for kind in ("gpu_spot", "gpu_on_demand")] == [True, False]
    for kind, machine in kinds.items():
        assert machine["type"] == config[kind]["node_config"]["InstanceType"]
        assert machine["key"] == "aln"
        assert machine["groups"] == head["groups"]
        assert machine["profile"].endswith(f":instance-profile/aln-{'head' if kind == 'head' else 'worker'}")
    assert found["down"]["code"] == 0, found["down"]["out"]
    assert found["left"] == []
