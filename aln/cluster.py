"""The Ray cluster of sweeps and of trainings by many workers: `RAY_ADDRESS`, the one this machine is in, or its own."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from aln.errors import AlnError, ClusterError
from aln.preflight import require_listener

_GROWTH = "~/ray_bootstrap_config.yaml"

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
        grown: the same of the machines that there are when it has grown as far as it may; nothing if it does not grow.
    """

    where: str
    nodes: Sequence[tuple[float, float]]
    grown: Sequence[tuple[float, float]] = ()

    @property
    def has(self) -> str:
        """What it has, in words."""
        return _in_words(self.nodes) + (f", up to {_in_words(self.grown)} as it grows" if self.grown else "")

    def holds(self, cpus: int, gpus: float) -> int:
        """How many processes fit at once, each with so many CPU cores and GPUs of one machine."""
        return max(sum(fitting(cpus, gpus, *node) for node in nodes) for nodes in (self.nodes, self.grown))


def _in_words(nodes: Sequence[tuple[float, float]]) -> str:
    return f"{sum(cpus for cpus, _ in nodes):g} CPU cores and {sum(gpus for _, gpus in nodes):g} GPUs"


def fitting(cpus: int, gpus: float, have_cpus: float, have_gpus: float) -> int:
    """How many processes, each with so many CPU cores and GPUs or a fraction of one, fit on what a machine has."""
    fits = math.floor(have_cpus / cpus)
    if gpus:
        per_gpu = math.floor(1 / gpus) if gpus < 1 else 1 / gpus
        fits = min(fits, math.floor(have_gpus * per_gpu))
    return fits


@contextmanager
def joined_cluster() -> Iterator[Cluster]:
    """The cluster at `RAY_ADDRESS`, else the one that this machine is in, else one that is started here and ends here.

    `RAY_ADDRESS=local` always starts one. Its processes find modules of the user's own in the folder where this one was
    started. Within another such context it is that one's cluster. Raises `ClusterError` if it cannot be joined or
    started, `AlnError` if nothing listens at `RAY_ADDRESS`.
    """
    address = os.environ.get("RAY_ADDRESS") or _running_here()
    address = None if address == "local" else address
    if ray.is_initialized():
        yield _joined(address)
        return
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
            yield _joined(address)
        finally:
            ray.shutdown()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _joined(address: str | None) -> Cluster:
    """The cluster that this process is in; it was started here if it has no address."""
    have = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in have]
    where = f"the Ray cluster at {address}" if address else "this machine"
    return Cluster(where, nodes, _grown(Path(_GROWTH).expanduser()) if address else ())


def _running_here() -> str | None:
    """The address of the cluster that `ray start` made this machine a part of, if it is still there."""
    address: str | None = ray._private.utils.read_ray_address()
    try:
        require_listener(address or "", "Ray", seconds=2.0)
    except AlnError:  # a file that has outlived its cluster
        return None
    return address


def _grown(growth: Path) -> Sequence[tuple[float, float]]:
    """CPU cores and GPUs of each machine when the autoscaler has started all that it may; nothing if there is none.

    Args:
        growth: what `ray up` leaves on the head: the cluster's file, completed.
    """
    if not growth.exists():
        return ()
    config: Mapping[str, Any] = yaml.safe_load(growth.read_text(encoding="utf-8"))
    workers: list[tuple[float, float]] = []
    for name, kind in config["available_node_types"].items():
        has = kind.get("resources", {})
        if name != config["head_node_type"] and has:  # machines that one has say nothing; they are there or not
            workers += [(has.get("CPU", 0.0), has.get("GPU", 0.0))] * kind.get("max_workers", 0)
    workers.sort(key=lambda node: node[::-1], reverse=True)
    head = config["available_node_types"][config["head_node_type"]].get("resources", {})
    return [(head.get("CPU", 0.0), head.get("GPU", 0.0)), *workers[: config["max_workers"]]] if workers else ()


def has_many_machines() -> bool:
    """Whether this process's cluster has machines besides this one, or may get some."""
    return len(ray.nodes()) > 1 or bool(_grown(Path(_GROWTH).expanduser()))


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
