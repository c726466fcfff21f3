"""Many workers train as one does: losses, weights, metrics, resuming, divergence. Real processes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from aln import signals
from aln.build import evaluate_split
from aln.config import parse_run
from aln.data import Batch, InMemory
from aln.engine import EpochResult, Evaluation, StepProgress
from aln.errors import AlnError
from aln.job import Job, checkpoints_of
from aln.layers import aligned_layers
from aln.rules import RULES, fixed, learned
from aln.seeds import derived_seed
from aln.signals import standard_noise_like
from aln.world import ALONE, World
from workers import run_workers

STEPS = 20
RUN: dict[str, Any] = {
    "model": "test_distributed_fit:convolutions",
    "data": {"name": "synthetic", "train": 64 * STEPS, "validation": 50, "test": 50, "image_size": 6, "channels": 2},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "epochs": 1,
    "batch_size": 64,
    "alignment": {"every": 1, "images": 8},
}
INFORMATION = {"name": "information", "alpha": 1e-2, "beta": 1e-3, "gamma": 1e-2}
FAST = {"name": "sgd", "lr": 0.3}  # for half the steps
CASES: dict[str, dict[str, Any]] = {name: {"rule": name} for name in RULES} | {
    "every third step": {"rule": {**INFORMATION, "align_every": 3}},
    "half of each batch": {"rule": {**INFORMATION, "align_fraction": 0.5}},
    "forward weights too": {"rule": {**INFORMATION, "update_forward": True}},
    "normal noise": {"rule": {"name": "mirror", "input_distribution": "normal"}},
    "uniform noise": {"rule": {**INFORMATION, "input_distribution": "uniform"}},
    "in two parts": {"rule": INFORMATION, "accumulate": 2},
    "in turns": {"rule": INFORMATION, "alternate_step_freq": 3},
    "an optimizer of its own": {
        "rule": INFORMATION,
        "alignment_optimizer": {"name": "adam", "lr": 1e-3},
        "clip": {"norm": 0.5},
        "noise": {"variance": 1e-8},
        "coefficients": {"alpha": {"rate": 0.5}},
    },
    "batch norm": {"rule": INFORMATION, "model": {"name": "resnet8", "width": 4}, "sync_batch_norm": True},
    "taking turns": {"rule": INFORMATION, "alternate_step_freq": 1, "optimizer": FAST},
    "tied gradients in turns": {"rule": {"name": "kolen_pollack", "alpha": 0.05}, "alternate_step_freq": 2},
    "forward weights too, in turns": {
        "rule": {"name": "symmetric", "update_forward": True},
        "alternate_step_freq": 1,
        "optimizer": FAST,
    },
    "a delay": {"rule": INFORMATION, "delay_epochs": 0.3},
    "two optimizers": {"rule": INFORMATION, "alignment_optimizer": {"name": "gd", "lr": 0.5}},
    "in parts": {"rule": INFORMATION, "accumulate": 4},
    "in parts, in turns": {"rule": INFORMATION, "accumulate": 2, "alternate_step_freq": 1, "optimizer": FAST},
    "noisy and clipped": {"rule": INFORMATION, "noise": {"variance": 1e-4}, "clip": {"norm": 0.5}},
    "coefficients": {"rule": INFORMATION, "coefficients": {"alpha": {"rate": 0.1}, "gamma": {"stop": 0.5}}},
    "frozen batch norm": {
        "rule": INFORMATION,
        "model": {"name": "resnet8", "width": 4},
        "frozen_bn": True,
        "optimizer": {"name": "sgd", "lr": 1.0},
    },
}


def convolutions(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """A network without batch norms."""
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(height * width, num_classes),
    )  # fmt: skip


def steady(x: Tensor, distribution: str) -> Tensor:
    """In the place of noise: a function of each example (or row of a weight), so that who draws it does not matter."""
    place = torch.arange(x[0].numel(), dtype=x.dtype).view(x[0].shape)
    return math.sqrt(2) * torch.cos(x + 2.4 * place)


def timeless(result: EpochResult) -> dict[str, float]:
    """The metrics that do not depend on the machine's speed."""
    return {k: v for k, v in result.metrics().items() if k not in ("epoch_seconds", "images_per_second")}


class Woven(InMemory):
    """Each batch begins with the first halves of what two workers would have of it."""

    def train_batches(self, *arguments: Any, **options: Any) -> Iterator[Batch]:
        for images, labels in super().train_batches(*arguments, **options):
            order = torch.arange(len(labels)).view(2, 2, -1).transpose(0, 1).flatten()
            yield images[order], labels[order]


def train(world: World, case: dict[str, Any], woven: bool = False) -> dict[str, Any]:
    """Losses of all workers together step by step, metrics, and weights after the last step."""
    job = Job(parse_run({**RUN, **case}), None, world)
    if woven:
        job.run = dataclasses.replace(job.run, source=Woven(**vars(job.run.source)))
    sums: list[float] = []
    patches = [mock.patch.object(module, "standard_noise_like", steady) for module in (signals, fixed, learned)]
    with patches[0], patches[1], patches[2]:
        (result,) = job.train(on_step=lambda p: sums.append(float(world.sum(p.sums.clone())[0])))
    losses = torch.tensor(sums, dtype=torch.float64).diff(prepend=torch.zeros(1)) / 64
    return {"losses": losses, "metrics": timeless(result), "weights": job.run.state.model.state_dict()}


def noises(world: World) -> list[float]:
    """A number of each draw of noise in an epoch."""
    drawn: list[float] = []

    def draw(x: Tensor, distribution: signals.Distribution) -> Tensor:
        noise = standard_noise_like(x, distribution)
        drawn.append(float(noise.flatten()[0]))
        return noise

    with mock.patch.object(signals, "standard_noise_like", draw):
        list(Job(parse_run({**RUN, **CASES["normal noise"]}), None, world).train())
    return drawn


INTERRUPTED = {
    **RUN,
    "rule": {"name": "mirror", "input_distribution": "normal"},
    "model": {"name": "resnet8", "width": 4},
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    "epochs": 3,
    "checkpoint": {"every": 1, "steps": 7},
}


def interrupt(world: World, folder: Path) -> dict[str, Any]:
    """A whole training, and one that ends in its second epoch and is resumed."""
    config = parse_run(INTERRUPTED)

    def stop(progress: StepProgress) -> None:
        if (progress.epoch, progress.step) == (2, 17):
            raise KeyboardInterrupt

    whole = Job(config, checkpoints_of(config, folder / "whole"), world)
    expected = [timeless(result) for result in whole.train()]
    cut = Job(config, checkpoints_of(config, folder / "cut"), world)
    with pytest.raises(KeyboardInterrupt):
        list(cut.train(on_step=stop))
    resumed = Job(config, checkpoints_of(config, folder / "cut"), world)
    place = (resumed.run.state.epoch, resumed.run.state.step)
    rest = [timeless(result) for result in resumed.train()]
    weights = [job.run.state.model.state_dict() for job in (whole, resumed)]
    return {"place": place, "expected": expected, "rest": rest, "weights": weights}


def diverge(world: World) -> tuple[list[bool], int]:
    """Of which epochs the second worker's part of a batch holds an infinite pixel, in the second."""
    content = {**RUN, "epochs": 3, "data": {**RUN["data"], "seed": 1}}
    job = Job(parse_run(content), None, world)
    assert isinstance(job.run.source, InMemory)
    order = torch.randperm(64 * STEPS, generator=torch.Generator().manual_seed(derived_seed(0, 1)))
    ended = []
    for result in job.train():
        ended.append(result.diverged)
        job.run.source.train.images[order[64 * 5 + 40]] = math.inf
    return ended, job.run.state.step


def fail_to_save(world: World, folder: Path) -> str:
    """What is said where checkpoints cannot be written."""
    (folder / "file").touch()
    config = parse_run({**RUN, "rule": "feedback"})
    with pytest.raises(AlnError) as caught:
        list(Job(config, checkpoints_of(config, folder / "file/checkpoints"), world).train())
    return str(caught.value)


def all_of_it(world: World, folder: Path) -> dict[str, Any]:
    """What two workers are asked, in one pair of processes."""
    return {
        "cases": {name: train(world, case) for name, case in CASES.items()},
        "own batch norms": train(world, {**CASES["batch norm"], "sync_batch_norm": False}),
        "noises": noises(world),
        "interrupted": interrupt(world, folder),
        "diverged": diverge(world),
        "failed": fail_to_save(world, folder),
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two workers has to say."""
    folder = tmp_path_factory.mktemp("workers")
    return run_workers(all_of_it, 2, folder / "pair", folder)


@pytest.mark.parametrize("case", CASES)
def test_two_workers_train_as_one_does(pair: list[dict[str, Any]], case: str) -> None:
    # A worker's B learns from the first examples of its own part of the batch.
    alone = train(ALONE, CASES[case], woven=case == "half of each batch")
    first, second = (worker["cases"][case] for worker in pair)
    assert len(alone["losses"]) == STEPS
    assert alone["losses"][-1] < 0.99 * alone["losses"][0]
    torch.testing.assert_close(first["losses"], alone["losses"], rtol=2e-6, atol=0)
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], weight, rtol=1e-4, atol=1e-5 * float(weight.abs().max()))
        assert torch.equal(first["weights"][name], second["weights"][name])
    assert first["metrics"] == second["metrics"]
    assert first["metrics"] == pytest.approx(alone["metrics"], rel=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_every_b_that_learns_has_learned(case: str, pair: list[dict[str, Any]]) -> None:
    """So that the equality above is one of what was learned."""
    model = Job(parse_run({**RUN, **CASES[case]})).run.state.model
    for name, layer in aligned_layers(model).items():
        key = f"{name}.backward_weight"
        if key not in pair[0]["cases"][case]["weights"] or layer.backward_weight is None:
            assert not layer.rule.has_backward_weight
            continue
        learned_something = not torch.equal(pair[0]["cases"][case]["weights"][key], layer.backward_weight)
        assert learned_something == layer.rule.learns_backward_weight


def test_batch_norms_of_their_own_make_another_run_and_one_state_of_all_workers(pair: list[dict[str, Any]]) -> None:
    together, (first, second) = pair[0]["cases"]["batch norm"], (worker["own batch norms"] for worker in pair)
    assert not torch.allclose(first["losses"], together["losses"], rtol=1e-3)
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in together["weights"])


def test_noise_is_every_workers_own(pair: list[dict[str, Any]]) -> None:
    first, second = (worker["noises"] for worker in pair)
    assert len(first) == len(second) == 3 * STEPS
    assert not set(first) & set(second)


def test_an_epoch_resumed_in_its_midst_continues_bit_identically(pair: list[dict[str, Any]]) -> None:
    for worker in pair:
        told = worker["interrupted"]
        assert told["place"] == (1, 14)
        assert len(told["expected"]) == 3
        assert told["rest"] == told["expected"][1:]
        whole, resumed = told["weights"]
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    first, second = (worker["interrupted"]["weights"][1] for worker in pair)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_divergence_on_one_worker_ends_all_of_them(pair: list[dict[str, Any]]) -> None:
    assert [worker["diverged"] for worker in pair] == [([False, True], 6)] * 2


def test_a_checkpoint_that_cannot_be_written_ends_all_workers_with_the_same_error(pair: list[dict[str, Any]]) -> None:
    first, second = (worker["failed"] for worker in pair)
    assert first == second
    assert "file/checkpoints" in first


def evaluate(world: World) -> tuple[Evaluation, Evaluation]:
    """Of the validation and the test split, 50 images each, after one epoch of the same training."""
    job = Job(parse_run({**RUN, "rule": "backprop", "batch_size": 36}), None, world)
    with torch.no_grad():
        for parameter in job.run.state.model.parameters():
            parameter.mul_(3)  # so that the network is not undecided
    return evaluate_split(job.run, "validation", world), job.test()


@pytest.mark.parametrize("workers", [2, 3])
def test_every_example_counts_once_whoever_evaluates_it(tmp_path: Path, workers: int) -> None:
    """Fifty images: neither batches nor shares are even."""
    for expected, *found in zip(evaluate(ALONE), *run_workers(evaluate, workers, tmp_path / "workers"), strict=True):
        assert expected.examples == 50
        assert expected.top1 != expected.top5
        for told in found:
            assert (told.top1, told.top5, told.examples) == (expected.top1, expected.top5, expected.examples)
            assert told.loss == pytest.approx(expected.loss, rel=1e-6)
