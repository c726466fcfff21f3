"""`ray up` and `ray down` against moto's AWS, as far as there are machines, and what there was to see.

    python aws_rehearsal.py CLUSTER_YAML FOLDER

To be run where there is no network but loopback: Ray tries to reach the machines that moto invents. The folder is HOME,
and gets `found.json`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

_RAY = str(Path(sys.executable).with_name("ray"))


def main(source: str, folder: str) -> None:
    home = Path(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ |= {
        "HOME": folder,
        "TMPDIR": folder,  # where Ray keeps what it has found out
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AUTOSCALER_NODE_START_WAIT_S": "3",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
    }
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with (home / "moto.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            _await(port)
            (home / "found.json").write_text(json.dumps(_rehearse(Path(source), home)))
        finally:
            server.kill()


def _await(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _rehearse(source: Path, home: Path) -> dict[str, Any]:
    config = yaml.safe_load(source.read_text())
    region = config["provider"]["region"]
    _prepare(config, region, home)
    path = home / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("a" * 32)
    up = _ray("up", "--yes", "--no-config-cache", str(path), folder=source.parent)
    head = _machines(region)
    for kind in ("gpu_spot", "gpu_on_demand"):
        _launch(path, kind)
    machines = _machines(region)
    down = _ray("down", "--yes", str(path), folder=source.parent)
    return {"up": up, "head": head, "machines": machines, "down": down, "left": _machines(region)}


def _prepare(config: dict[str, Any], region: str, home: Path) -> None:
    """Makes what a person makes before, by the names in the file, and fills in what AWS has named."""
    import boto3

    ec2, iam = boto3.client("ec2", region), boto3.client("iam", region)
    (name,) = {kind["node_config"]["KeyName"] for kind in config["available_node_types"].values()}
    key = home / "key.pem"
    key.write_text(ec2.create_key_pair(KeyName=name)["KeyMaterial"])
    key.chmod(0o600)
    config["auth"]["ssh_private_key"] = str(key)
    network = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="aln", Description="aln", VpcId=network)["GroupId"]
    for profile in {
        kind["node_config"]["IamInstanceProfile"]["Name"] for kind in config["available_node_types"].values()
    }:
        iam.create_instance_profile(InstanceProfileName=profile)
    for kind in config["available_node_types"].values():
        kind["node_config"]["SecurityGroupIds"] = [group]


def _ray(*arguments: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run([_RAY, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return {"code": done.returncode, "out": done.stdout + done.stderr}


def _launch(path: Path, kind: str) -> None:
    """Starts a worker as the autoscaler does: with the node type as Ray has completed it, by Ray itself."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler._private.util import prepare_config
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

    config = bootstrap_aws(prepare_config(yaml.safe_load(path.read_text())))
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: kind}
    provider.create_node(config["available_node_types"][kind]["node_config"], tags, 1)


def _machines(region: str) -> list[dict[str, Any]]:
    """Machines that run."""
    import boto3

    client = boto3.client("ec2", region)
    found = client.describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["running", "pending"]}])
    return [
        {
            "type": machine["InstanceType"],
            "key": machine["KeyName"],
            "groups": [group["GroupId"] for group in machine["SecurityGroups"]],
            "profile": machine.get("IamInstanceProfile", {}).get("Arn"),
            "spot": machine.get("InstanceLifecycle") == "spot",
            "tags": {tag["Key"]: tag["Value"] for tag in machine["Tags"]},
        }
        for reservation in found["Reservations"]
        for machine in reservation["Instances"]
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
