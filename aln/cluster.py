"""The Ray cluster of sweeps and of trainings by many workers: the one at `RAY_ADDRESS`, or one of this machine."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from aln.errors import ClusterError
from aln.preflight import require_listener

# What is set unless the environment says otherwise.
_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # How often workers are looked after, in seconds: as late as that a death is noticed, and an end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Seconds that a cluster may be busy with others before it is an error that workers do not start: a week.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "604800",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Workers stay in the folder where they began, where the user's own modules and data are.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process has joined.

    Attributes:
        where: which it is, in words.
        nodes: CPU cores and GPUs of each machine.
    """

    where: str
    nodes: Sequence[tuple[float, float]]

    @property
    def cpus(self) -> float:
        """CPU cores of all machines."""
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all machines."""
        return sum(gpus for _, gpus in self.nodes)

    @property
    def has(self) -> str:
        """What it has, in words."""
        return f"{self.cpus:g} CPU cores and {self.gpus:g} GPUs"

    def holds(self, cpus: int, gpus: float) -> int:
        """How many processes fit at once, each with so many CPU cores and GPUs of one machine."""
        return sum(fitting(cpus, gpus, *node) for node in self.nodes)


def fitting(cpus: int, gpus: float, have_cpus: float, have_gpus: float) -> int:
    """How many processes, each with so many CPU cores and GPUs or a fraction of one, fit on what a machine has."""
    fits = math.floor(have_cpus / cpus)
    if gpus:
        per_gpu = math.floor(1 / gpus) if gpus < 1 else 1 / gpus
        fits = min(fits, math.floor(have_gpus * per_gpu))
    return fits


@contextmanager
def joined_cluster() -> Iterator[Cluster]:
    """The cluster at `RAY_ADDRESS` if that is set, else one of this machine; what was started on it ends with it.

    Its processes find modules of the user's own in the folder where this one was started. Raises `ClusterError` if it
    cannot be joined or started, `AlnError` if nothing listens at the address.
    """
    address = os.environ.get("RAY_ADDRESS")
    path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    before = dict(os.environ)
    # Nobody takes away the machine on which one works.
    alone = {} if address else {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
    os.environ.update({**_DEFAULTS, **alone, **before, "PYTHONPATH": path})
    try:
        if address:
            require_listener(address, "The Ray cluster")
            _authenticate()
        try:
            ray.init(
                address=address or "local",  # without an address Ray joins what it believes to run here, dead or alive
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": path}} if address else None,
            )
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            where = f"the Ray cluster at {address} cannot be joined" if address else "Ray cannot start on this machine"
            raise ClusterError(f"{where}: {error}") from error
        try:
            have = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            nodes = [(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in have]
            yield Cluster(f"the Ray cluster at {address}" if address else "this machine", nodes)
        finally:
            ray.shutdown()
    finally:
        os.environ.clear()
        os.environ.update(before)


def require_shared(folder: Path) -> None:
    """Raises `ClusterError` naming the machines that do not see what this one writes where the folder is to be."""
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != this_node()]
    existing = next(parent for parent in folder.parents if parent.exists())
    with tempfile.NamedTemporaryFile(dir=existing, prefix=".visible-") as marker:
        sees = ray.remote(num_cpus=0)(_sees)
        seen = [sees.options(scheduling_strategy=on_node(node["NodeID"])).remote(marker.name) for node in others]
        blind = [node["NodeManagerAddress"] for node, it in zip(others, ray.get(seen), strict=True) if not it]
    if blind:
        raise ClusterError(
            f"{folder} is not seen from {', '.join(blind)}: expected a folder that all machines share, or a URL "
            "(s3://bucket/folder)"
        )


def this_node() -> str:
    """Ray's name of the machine of this process."""
    node: str = ray.get_runtime_context().get_node_id()
    return node


def on_node(node: str) -> NodeAffinitySchedulingStrategy:
    """Where something is to run: on that machine."""
    return NodeAffinitySchedulingStrategy(node_id=node, soft=False)


def _sees(path: str) -> bool:
    return Path(path).exists()


def _authenticate() -> None:
    """Shows the cluster this machine's token if there is one, as `ray start` does; without it `ray.init` is refused."""
    try:
        from ray._private.authentication import authentication_token_setup as tokens
    except ImportError:  # a Ray from before the tokens
        return
    tokens.logger.setLevel(logging.ERROR)
    tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
