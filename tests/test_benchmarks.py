"""The benchmark of step time, run as a person runs it, at sizes that take seconds."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from aln.models import MODELS
from aln.rules import RULES, RegularizedRule

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "step_time.py"
NETWORKS = {"resnet8": (3, 16, 16), "mlp": (3, 8, 8)}
BATCH = 8


def run(*arguments, folder=SCRIPT.parent):
    """Runs the script; modules in `folder` can be imported."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    paths = [str(folder), str(SCRIPT.parent.parent), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(command, capture_output=True, text=True, timeout=800, check=False, env=env)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """What a run of every rule on two small networks writes."""
    out = tmp_path_factory.mktemp("benchmark") / "new" / "result.json"
    specs = [f"{name}:{shape[1]}:{BATCH}" for name, shape in NETWORKS.items()]
    done = run("--networks", *specs, "--rounds", "2", "--skip", "biotorch", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(out.read_text())
    for name in RULES:
        assert done.stdout.count(f"│ {name} ") == len(NETWORKS)
    return found


@pytest.fixture(params=list(NETWORKS))
def network(request, result):
    return next(record for record in result["networks"] if record["network"] == request.param)


def variant(network, name, kind="rule"):
    (found,) = [record for record in network["variants"] if (record["name"], record["kind"]) == (name, kind)]
    return found


def operations(name, counts=lambda index, layer: True):
    """Floating-point operations of one application of the map of each layer that counts."""
    sizes = []

    def count(layer, inputs, output):
        sizes.append(2 * layer.weight.numel() * (output.numel() // output.shape[1]) * counts(len(sizes), layer))

    model = MODELS.get(name)(NETWORKS[name], 10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.zeros(BATCH, *NETWORKS[name]))
    return sum(sizes)


def is_pointwise_without_bias(index, layer):
    return layer.bias is None and layer.weight.shape[2:] == (1, 1)


def test_result_says_what_was_measured_on_what(result):
    assert result["settings"]["rounds"] == 2
    assert result["settings"]["threads"] == 1
    assert result["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert result["machine"]["cores"] >= 1
    assert [record["network"] for record in result["networks"]] == list(NETWORKS)


def test_every_rule_is_measured_beside_its_written_out_twin(network):
    kinds = {kind: [r["name"] for r in network["variants"] if r["kind"] == kind] for kind in ("rule", "written_out")}
    assert kinds["rule"] == list(RULES)
    assert kinds["written_out"] == [name for name, rule in RULES.items() if issubclass(rule, RegularizedRule)]
    assert [record["kind"] for record in network["variants"][:2]] == ["plain", "control"]
    assert network["images"] == [BATCH, *NETWORKS[network["network"]]]
    assert network["classes"] == 10
    assert (network["rounds"], network["clock"]) == (2, "cpu")


def test_ratios_are_to_plain_of_the_same_round(network):
    for record in network["variants"]:
        for clock in ("time", "wall_time", "cpu_time"):
            spread = record[clock]
            assert 0 < spread["q1"] <= spread["median"] <= spread["q3"] < math.inf
        assert record["time"] == record["cpu_time"]
    plain = variant(network, "plain", "plain")
    assert plain["time"] == {"median": 1, "q1": 1, "q3": 1}
    assert (plain["floor"], plain["saved_memory"], plain["peak_memory"]) == (1, 1, 1)
    assert network["plain"]["cpu_seconds"] > 0


def test_floor_of_rules_without_kernels_of_their_own_is_backprops(network):
    for name in ("backprop", "feedback", "symmetric", "kolen_pollack"):
        assert variant(network, name)["floor"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", ["information", "activation", "mirror"])
def test_floor_is_that_of_two_kernels_more(network, name):
    """Forward and dW of every layer and dx of all but the first; the rule adds two kernels to every layer.

    A 1×1 convolution may have its gradient from a second moment, for less.
    """
    model = network["network"]
    backprop = 2 * operations(model) + operations(model, lambda index, layer: index > 0)
    assert network["plain"]["flops"] == backprop
    most = (backprop + 2 * operations(model)) / backprop
    least = most - 2 * operations(model, is_pointwise_without_bias) / backprop
    floor = variant(network, name)["floor"]
    assert least - 1e-3 < floor < most + 1e-3
    assert most < least + 0.03


def test_closed_forms_keep_less_and_compute_less_than_autograd(network):
    for name in ("information", "activation", "mirror"):
        closed, written_out = variant(network, name), variant(network, name, "written_out")
        assert closed["floor"] < written_out["floor"]
        assert closed["saved_memory"] < written_out["saved_memory"]


def test_aligned_layers_keep_no_more_than_plain_ones(result):
    """The output that information needs is what the batch norm behind the layer keeps anyway."""
    network = next(record for record in result["networks"] if record["network"] == "resnet8")
    for name in RULES:
        assert variant(network, name)["saved_memory"] <= 1.05, name
    assert variant(network, "feedback")["peak_memory"] <= 1.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rules", "nope"], "error: unknown learning rule 'nope'"),
        (["--networks", "resnet9"], "error: unknown model 'resnet9'"),
        (["--networks", "mlp:8:4:2"], "error: --networks mlp:8:4:2: expected NAME, NAME:SIZE or NAME:SIZE:BATCH"),
        (["--rounds", "0"], "error: --rounds 0: expected at least 1"),
    ],
)
def test_mistakes_are_named_before_anything_runs(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stdout == ""


def test_network_that_cannot_run_is_an_error():
    """One image of 4 pixels a side leaves batch norm a single value a channel."""
    done = run("--networks", "resnet8:4:1", "--rules", "feedback", "--rounds", 1, "--skip", "biotorch")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: resnet8: the plain network cannot run: ValueError: Expected more than 1 value"
    )


BROKEN = """
from dataclasses import dataclass
from aln.rules import LearningRule

@dataclass(frozen=True, kw_only=True)
class Broken(LearningRule):
    def backward_grad(self, s):
        raise ArithmeticError("no gradient here")
"""


def test_rule_that_fails_is_reported_and_the_others_measured(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    out = tmp_path / "result.json"
    rules = ["broken:Broken", "feedback"]
    done = run(
        "--networks", "mlp:8:4", "--rules", *rules, "--rounds", 1, "--skip", "biotorch", "--out", out, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "rule broken:Broken fails: ArithmeticError: no gradient here" in done.stdout
    (network,) = json.loads(out.read_text())["networks"]
    assert variant(network, "broken:Broken")["error"] == "ArithmeticError: no gradient here"
    assert variant(network, "feedback")["time"]["median"] > 0
