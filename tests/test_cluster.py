"""Which Ray cluster is used, and what it holds."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from aln.cluster import Cluster

SAY = """
from aln.cluster import has_many_machines, joined_cluster
with joined_cluster() as cluster:
    print(cluster.where, "|", cluster.has, "|", cluster.holds(4, 1), has_many_machines())
"""
# What `ray up` leaves on a head: as many workers as all kinds may have are more than the cluster may have.
GROWTH = {
    "max_workers": 3,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "spot": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 2},
        "large": {"resources": {"CPU": 96, "GPU": 8}, "max_workers": 1},
        "cpu": {"resources": {"CPU": 64}, "max_workers": 3},
    },
}


@pytest.fixture
def home() -> Iterator[Path]:
    """A home folder of its own; names of sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="aln", dir="/tmp") as folder:
        yield Path(folder)


def said(home: Path, **variables: str) -> str:
    """What a process says of its cluster, with the home folder and with Ray's own files in it."""
    token = Path("~/.ray/auth_token").expanduser()
    own = {"HOME": str(home), "RAY_TMPDIR": str(home), "RAY_AUTH_TOKEN_PATH": str(token)}
    environment = {**os.environ, **own, **variables}
    done = subprocess.run([sys.executable, "-c", SAY], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def is_part_of(home: Path, address: str) -> None:
    """Leaves what `ray start` leaves on a machine."""
    (home / "ray").mkdir()
    (home / "ray/ray_current_cluster").write_text(address)


def test_a_machine_of_a_cluster_uses_it(home: Path, ray_head: str) -> None:
    is_part_of(home, ray_head)
    assert said(home) == f"the Ray cluster at {ray_head} | 2 CPU cores and 0 GPUs | 0 False"


def test_the_address_of_the_environment_comes_first(home: Path, ray_head: str) -> None:
    is_part_of(home, "127.0.0.1:1")
    assert said(home, RAY_ADDRESS=ray_head).startswith(f"the Ray cluster at {ray_head} | 2 CPU cores")


@pytest.mark.parametrize("variables", [{}, {"RAY_ADDRESS": "local"}], ids=["cluster gone", "asked for"])
def test_a_cluster_of_this_machine_otherwise(home: Path, variables: dict[str, str], ray_head: str) -> None:
    is_part_of(home, ray_head if variables else "127.0.0.1:1")
    assert said(home, **variables).startswith("this machine | ")


def test_a_cluster_that_grows_holds_what_it_may_become(home: Path, ray_head: str) -> None:
    (home / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(GROWTH))
    grown = "up to 112 CPU cores and 10 GPUs as it grows"
    expected = f"the Ray cluster at {ray_head} | 2 CPU cores and 0 GPUs, {grown} | 10 True"
    assert said(home, RAY_ADDRESS=ray_head) == expected


def test_machines_that_are_there_count_even_if_more_may_come() -> None:
    cluster = Cluster("a cluster", [(8.0, 0.0), (8.0, 0.0)], grown=[(4.0, 1.0)])
    assert cluster.holds(4, 0) == 4
    assert cluster.holds(4, 1) == 1
