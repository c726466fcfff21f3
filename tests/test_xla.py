"""The same training on an XLA device as on the CPU; the device is the CPU too, unless `PJRT_DEVICE` says else.

Runs where torch_xla is, that is in an environment of its own:

    python -m venv venv && venv/bin/pip install '.[xla]' pytest pytest-timeout
    venv/bin/python -m pytest tests/test_xla.py
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from aln.build import Run, build, evaluate_test, resume
from aln.checkpoint import read_checkpoint
from aln.config import parse_run
from aln.conversion import align
from aln.devices import find_device, lent_generators, own_generator, seed_generators
from aln.engine import EpochResult, fit
from aln.rules import RULES
from small_network import gradients, net

os.environ.setdefault("PJRT_DEVICE", "CPU")
pytest.importorskip(
    "torch_xla",
    reason="needs torch_xla; its newest release is 2.9.0 (Linux, x86-64, Python 3.10 to 3.13), made for torch 2.9",
    exc_type=ImportError,
)
DEVICE = find_device("xla")  # before any test computes a gradient, see there
TOLERANCE = 1e-4


def make(content: dict[str, Any], device: str, **changes: Any) -> Run:
    return build(parse_run({**content, **changes, "compute": {"device": device}}))


def train(run: Run, epochs: int | None = None) -> list[EpochResult]:
    steps = fit(run.state, run.source, run.settings)
    return list(steps) if epochs is None else [next(steps) for _ in range(epochs)]


def numbers(results: list[EpochResult]) -> list[float]:
    return [number for r in results for number in (r.train_loss, r.train_top1, r.validation.loss, r.validation.top1)]


def assert_alike(ours: Run, theirs: Run, tolerance: float = TOLERANCE) -> None:
    pairs = zip(ours.state.model.state_dict().items(), theirs.state.model.state_dict().values(), strict=True)
    for (name, a), b in pairs:
        apart = (a.cpu().double() - b.cpu().double()).norm()
        assert apart <= tolerance * (1 + b.cpu().double().norm()), name


def compiled() -> int:
    import torch_xla.debug.metrics as met

    return met.metric_data("CompileTime")[0]


def left_to_the_cpu() -> list[str]:
    """Operators that XLA does not have, each of which would wait for the device in every step."""
    import torch_xla.debug.metrics as met

    return [name for name in met.counter_names() if name.startswith("aten::") and name != "aten::_local_scalar_dense"]


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_trains_as_on_the_cpu(small_run: dict[str, Any], rule: str) -> None:
    content = {**small_run, "rule": {"name": rule}, "alignment": {"every": 2}}
    ours, theirs = make(content, "xla"), make(content, "cpu")
    found, expected = train(ours), train(theirs)
    assert {p.device for p in ours.state.model.parameters()} == {DEVICE}
    assert numbers(found) == pytest.approx(numbers(expected), rel=TOLERANCE)
    assert found[-1].angles == pytest.approx(expected[-1].angles, abs=0.02)
    for name, layer in expected[-1].alignment.items():
        other = vars(found[-1].alignment[name])
        assert other == pytest.approx(vars(layer), rel=1e-3, abs=0.02, nan_ok=True)
    assert_alike(ours, theirs)
    assert not left_to_the_cpu()


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_has_the_same_gradients_in_convolutions(rule: str) -> None:
    model = align(net(), RULES.get(rule)(), output="4")
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = gradients(model, x)
    found = gradients(copy.deepcopy(model).to(DEVICE), x.to(DEVICE))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].cpu(), gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max() + 1))
    assert not left_to_the_cpu()


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"name": "adam", "lr": 0.01}},
        {"optimizer": {"name": "swats", "lr": 0.01}},
        {"optimizer": {"name": "rmsprop", "lr": 0.001}, "clip": {"norm": 1.0}},
        {"optimizer": {"name": "adagrad", "lr": 0.01}, "accumulate": 2},
        {"alignment_optimizer": {"name": "radam", "lr": 0.001}, "coefficients": {"alpha": {"rate": 1e-4}}},
        {"model": {"name": "resnet8"}, "data": {"name": "digits", "shift": 1}, "epochs": 1, "batch_size": 128},
    ],
    ids=["adam", "swats", "clip", "accumulate", "alignment_optimizer", "resnet8"],
)
def test_recipes_train_as_on_the_cpu(small_run: dict[str, Any], changes: dict[str, Any]) -> None:
    ours, theirs = make(small_run, "xla", **changes), make(small_run, "cpu", **changes)
    assert numbers(train(ours)) == pytest.approx(numbers(train(theirs)), rel=1e-3)
    assert_alike(ours, theirs, 1e-3)
    assert evaluate_test(ours).loss == pytest.approx(evaluate_test(theirs).loss, rel=1e-3)
    assert not left_to_the_cpu()


def test_bfloat16_is_near_that_of_the_cpu(small_run: dict[str, Any]) -> None:
    losses = []
    for device in ("xla", "cpu"):
        content = {**small_run, "compute": {"device": device, "precision": "bfloat16"}}
        losses.append([r.train_loss for r in train(build(parse_run(content)))])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_float32_is_what_is_taken_unasked(small_run: dict[str, Any]) -> None:
    assert make(small_run, "xla").settings.precision == "float32"


def test_the_same_run_twice_is_bit_identical(small_run: dict[str, Any]) -> None:
    content = {**small_run, "rule": {"name": "mirror", "input_distribution": "normal"}, "noise": {"variance": 1e-4}}
    first, second = make(content, "xla"), make(content, "xla")
    results = numbers(train(first))
    torch.rand(7, device=DEVICE)  # what else happens in the process must not matter
    assert numbers(train(second)) == results
    for a, b in zip(first.state.model.parameters(), second.state.model.parameters(), strict=True):
        assert torch.equal(a.cpu(), b.cpu())


def test_noise_on_updates_has_its_variance(small_run: dict[str, Any]) -> None:
    ours = make(small_run, "xla", noise={"variance": 0.25})
    weight = torch.zeros(100, 100, device=DEVICE)
    noise = ours.settings.noise._draw(weight, own_generator(DEVICE, 3)).cpu()
    assert float(noise.std()) == pytest.approx(0.5, rel=0.03)
    assert abs(float(noise.mean())) < 0.02


def test_generators_are_lent() -> None:
    seed_generators(DEVICE, 5)
    torch.rand(1, device=DEVICE)
    expected = torch.rand(3, device=DEVICE).cpu()
    seed_generators(DEVICE, 5)
    torch.rand(1, device=DEVICE)
    with lent_generators(DEVICE):
        seed_generators(DEVICE, 9)
        torch.rand(4, device=DEVICE)
    assert torch.equal(torch.rand(3, device=DEVICE).cpu(), expected)


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "lr": 0.05}, {"name": "adam", "lr": 0.01}], ids=["sgd", "adam"])
@pytest.mark.parametrize(("before", "after"), [("xla", "cpu"), ("cpu", "xla"), ("xla", "xla")])
def test_a_checkpoint_goes_on_where_it_was_not_made(
    small_run: dict[str, Any], tmp_path: Path, optimizer: dict[str, Any], before: str, after: str
) -> None:
    content = {**small_run, "optimizer": optimizer}
    undisturbed = make(content, "cpu")
    expected = numbers(train(undisturbed))
    begun = make(content, before)
    found = numbers(train(begun, 2))
    begun.state.begin_epoch(2)
    begun.state.save(tmp_path / "checkpoint.pt")
    saved = read_checkpoint(tmp_path / "checkpoint.pt")
    assert {tensor.device.type for tensor in saved["model"].values()} == {"cpu"}
    resumed = make(content, after)
    resume(resumed, tmp_path / "checkpoint.pt")
    assert {bool(group["fused"]) for group in resumed.state.optimizer.param_groups} == {after == "cpu"}
    found += numbers(train(resumed))
    assert found == pytest.approx(expected, rel=1e-3)
    assert_alike(resumed, undisturbed, 1e-3)


def test_nothing_is_compiled_anew_as_training_goes_on(small_run: dict[str, Any]) -> None:
    rule = {"name": "information", "input_distribution": "normal"}
    content = {**small_run, "rule": rule, "epochs": 6, "noise": {"variance": 1e-4}, "alignment": {"every": 0}}
    run = make(content, "xla", coefficients={"alpha": {"rate": 1e-4}})
    counts = [compiled() for _ in fit(run.state, run.source, run.settings)]
    assert counts[1:] == counts[1:2] * 5  # the first epoch compiles, the first step of the second may
