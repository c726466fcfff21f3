"""`kuberay.yaml`: whether KubeRay would take it, what it pins, and what it keeps to itself."""

from __future__ import annotations

import copy
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from aln import sweep
from test_cluster_files import SECRETS

REPOSITORY = Path(__file__).parent.parent
MANIFEST = REPOSITORY / "kuberay.yaml"
SCHEMA = Path(os.environ.get("KUBERAY_CRD") or Path(__file__).with_name("rayjob_schema.yaml"))
JOB, GROWTH = yaml.safe_load_all(MANIFEST.read_text())
CLUSTER = JOB["spec"]["rayClusterSpec"]
HEAD, (WORKERS,) = CLUSTER["headGroupSpec"], CLUSTER["workerGroupSpecs"]
PODS = [group["template"]["spec"] for group in (HEAD, WORKERS)]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))


def strict(schema: Any) -> Any:
    """A definition's schema as Kubernetes takes it in strict validation: no field that it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    closed = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return closed | {key: strict(part) for key, part in schema.items()}


def check(job: dict[str, Any]) -> None:
    """Raises `ValidationError` naming what KubeRay's API does not have."""
    definition = yaml.load(SCHEMA.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = [v["schema"] for v in definition["spec"]["versions"] if f"ray.io/{v['name']}" == job["apiVersion"]]
    jsonschema.validate(job, strict(schema["openAPIV3Schema"]))


def test_kuberays_api_takes_it() -> None:
    assert JOB["kind"] == "RayJob"
    check(JOB)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda job: job["spec"].update(backofLimit=1), "'backofLimit' was unexpected"),
        (lambda job: job["spec"].update(backoffLimit="3"), "'3' is not of type 'integer'"),
        (lambda job: job["spec"]["rayClusterSpec"].update(authOptions={"mode": "tokens"}), "'tokens' is not one of"),
        (lambda job: job["spec"]["rayClusterSpec"].pop("headGroupSpec"), "'headGroupSpec' is a required property"),
        (
            lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"),
            "'maxReplicas' is a required property",
        ),
        (
            lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].update(rayStartParams={"num-cpus": 0}),
            "0 is not of type 'string'",
        ),
        (
            lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].update(volume=[]),
            "'volume' was unexpected",
        ),
    ],
    ids=["a field", "a type", "a value", "no head", "no limit", "a number", "a field of a pod"],
)
def test_kuberays_api_refuses_it_with_a_mistake(change: Callable[[Any], Any], complaint: str) -> None:
    job = copy.deepcopy(JOB)
    change(job)
    with pytest.raises(jsonschema.ValidationError, match=complaint):
        check(job)


def test_it_has_the_versions_of_the_project() -> None:
    assert CLUSTER["rayVersion"] == PINS["ray"]
    text = (REPOSITORY / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)$", text, re.MULTILINE) == [f"rayproject/ray:{PINS['ray']}-py311"]
    (install,) = re.findall(r"pip install .*", text)
    assert "--constraint /home/ray/aln/constraints.txt" in install
    assert {container["image"] for pod in PODS for container in pod["containers"]} == {"registry.example/aln:1"}


def test_the_image_holds_what_the_cluster_files_sync() -> None:
    mounts = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())["file_mounts"]
    synced = {source for to, source in mounts.items() if to.startswith("~/aln/")} - {"Makefile"}
    text = (REPOSITORY / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY --chown=ray (.*) \S+$", text, re.MULTILINE) for name in line.split()}
    assert copied == synced
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert {name.removeprefix("!") for name in ignored if name.startswith("!")} == copied


def test_what_it_may_grow_to_is_what_aln_is_told() -> None:
    growth = yaml.safe_load(GROWTH["data"]["growth.yaml"])
    has = WORKERS["template"]["spec"]["containers"][0]["resources"]
    assert has["requests"] == has["limits"]
    resources = {"CPU": int(has["limits"]["cpu"]), "GPU": int(has["limits"]["nvidia.com/gpu"])}
    assert growth["available_node_types"]["gpu"] == {"resources": resources, "max_workers": WORKERS["maxReplicas"]}
    assert growth["available_node_types"]["head"]["resources"]["CPU"] == int(HEAD["rayStartParams"]["num-cpus"]) == 0
    assert growth["max_workers"] == WORKERS["maxReplicas"]
    (container,) = PODS[0]["containers"]
    mounted = {mount["mountPath"]: (mount["name"], mount.get("subPath")) for mount in container["volumeMounts"]}
    assert mounted["/home/ray/ray_bootstrap_config.yaml"] == ("growth", "growth.yaml")
    assert {"name": "growth", "configMap": {"name": GROWTH["metadata"]["name"]}} in PODS[0]["volumes"]


def test_it_holds_no_secret_and_asks_for_a_token() -> None:
    text = MANIFEST.read_text().replace("secretRef: {name: aln}", "")
    assert not [secret for secret in SECRETS if re.search(secret, text)]
    assert CLUSTER["authOptions"] == {"mode": "token"}
    for pod in PODS:
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "aln"}}]
        assert container["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_its_commands_are_a_sweep_and_the_same_sweep_gone_on_with(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, option, script = shlex.split(JOB["spec"]["entrypoint"])
    assert (program, option) == ("bash", "-c")
    begins, goes_on = (
        shlex.split(command.replace("$ALN_STORAGE", "shared"))
        for command in re.findall(r"python -m aln\.sweep ([^|;]*)", script)
    )
    files = [str(REPOSITORY / part) if part.endswith(".yaml") else part for part in begins]
    assert sweep.main([*files, "run.model={name: mlp, width: 8}", "--dry-run"]) == 0
    assert "first: information on digits" in capsys.readouterr().out
    assert sweep.main(goes_on) == 2
    assert f"is 'first', but {workplace / 'shared/first'} holds no sweep" in capsys.readouterr().err
