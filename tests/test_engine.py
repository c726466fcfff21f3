"""The engine: learning, determinism, resuming, divergence, evaluation."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aln.alignment import METRICS, measure_alignment
from aln.angles import weight_angles
from aln.build import Run, build, resume
from aln.checkpoint import TrainState
from aln.config import parse_run
from aln.engine import EpochResult, StepProgress, evaluate, fit
from aln.errors import DataError
from aln.layers import aligned_layers
from aln.optim import Constant
from aln.rules import RULES

TIMES = ("images_per_second", "epoch_seconds")


def make(content: dict[str, Any], **changes: Any) -> Run:
    return build(parse_run({**content, **changes}))


def train(run: Run) -> list[EpochResult]:
    return list(fit(run.state, run.source, run.settings))


def timeless(results: list[EpochResult]) -> list[dict[str, float]]:
    return [{key: value for key, value in r.metrics().items() if key not in TIMES} for r in results]


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_learns(small_run: dict[str, Any], rule: str) -> None:
    results = train(make(small_run, rule={"name": rule}, epochs=16))
    assert [r.epoch for r in results] == list(range(1, 17))
    assert results[-1].train_loss < 0.5 * results[0].train_loss
    assert results[-1].validation is not None
    assert results[-1].validation.top1 > 60  # chance is 10


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", ["backprop", "information", "mirror"])
def test_the_same_run_twice_is_bit_identical(small_run: dict[str, Any], rule: str, precision: str) -> None:
    noise = {} if rule == "backprop" else {"input_distribution": "normal"}
    content = {**small_run, "rule": {"name": rule, **noise}, "compute": {"precision": precision}}
    first, second = make(content), make(content)
    results = timeless(train(first))
    torch.rand(7)  # what else happens in the process must not matter
    assert timeless(train(second)) == results
    for a, b in zip(first.state.model.parameters(), second.state.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_seed_is_another_run(small_run: dict[str, Any]) -> None:
    assert timeless(train(make(small_run))) != timeless(train(make(small_run, seed=1)))


def test_the_callers_generator_is_left_alone(small_run: dict[str, Any]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(make(small_run))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("rule", ["backprop", "kolen_pollack", "mirror"])
@pytest.mark.parametrize("model", [{"name": "mlp", "width": 16}, {"name": "resnet8", "width": 4}])
def test_resuming_in_the_middle_continues_bit_identically(
    small_run: dict[str, Any], tmp_path: Path, rule: str, model: dict[str, Any]
) -> None:
    noise = {"input_distribution": "normal"} if rule == "mirror" else {}
    content = {**small_run, "rule": {"name": rule, **noise}, "model": model}
    whole = make(content)
    expected = train(whole)
    half = make(content)
    for _ in zip(range(2), fit(half.state, half.source, half.settings), strict=False):
        half.state.save(tmp_path / "checkpoint.pt")
    again = make(content)
    resume(again, tmp_path / "checkpoint.pt")
    assert again.state.epoch == 2
    assert timeless(train(again)) == timeless(expected[2:])
    for a, b in zip(whole.state.model.state_dict().values(), again.state.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(small_run: dict[str, Any]) -> None:
    run = make(small_run, optimizer={"name": "sgd", "lr": 1e18}, schedule={"name": "constant"})
    results = train(run)
    assert results[-1].diverged
    assert len(results) < 4
    assert not any(r.diverged for r in results[:-1])
    assert run.state.epoch == results[-1].epoch - 1
    metrics = results[-1].metrics()
    assert metrics["val_top1"] == 0.0
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_backward_weight_that_is_not_finite_ends_the_run(small_run: dict[str, Any]) -> None:
    """The first layer's B never carries an error, so only a look at the weights can find it."""
    run = make(small_run)
    layers = [m for m in run.state.model.modules() if getattr(m, "backward_weight", None) is not None]
    with torch.no_grad():
        layers[0].backward_weight.fill_(math.inf)
    results = train(run)
    assert [r.diverged for r in results] == [True]
    assert math.isfinite(results[0].train_loss)


def test_learning_rate_follows_the_schedule(small_run: dict[str, Any]) -> None:
    schedule = {"name": "step", "drops": [2, 3], "gamma": 0.1}
    results = train(make(small_run, schedule=schedule))
    assert [r.lr for r in results] == pytest.approx([0.05, 0.05, 0.005, 0.0005])


def test_angles_are_recorded_per_layer(small_run: dict[str, Any]) -> None:
    results = train(make(small_run))
    assert set(results[0].angles) == {"1", "3"}
    assert all(0 <= degrees <= 180 for r in results for degrees in r.angles.values())
    assert results[0].metrics()["angle/1"] == results[0].angles["1"]


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_does_not_notice_that_alignment_is_measured(
    small_run: dict[str, Any], rule: str, precision: str
) -> None:
    noise = {"input_distribution": "normal"} if rule in ("mirror", "information") else {}
    content = {
        **small_run,
        "rule": {"name": rule, **noise},
        "model": {"name": "resnet8", "width": 4},
        "compute": {"precision": precision},
        "epochs": 2,
    }
    watched, alone = make(content, alignment={"every": 1, "images": 8}), make(content, alignment={"every": 0})
    results = train(watched)
    assert all(r.alignment for r in results)
    plain = [{k: v for k, v in r.items() if k.partition("/")[0] not in METRICS} for r in timeless(results)]
    expected = timeless(train(alone))
    assert plain == [{k: v for k, v in r.items() if k.partition("/")[0] not in METRICS} for r in expected]
    for a, b in zip(watched.state.model.state_dict().values(), alone.state.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    a, b = (str(run.state.optimizer.state_dict()) for run in (watched, alone))
    assert a == b


@pytest.mark.parametrize(
    ("every", "expected"), [(0, []), (None, []), (1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (10, [5])]
)
def test_alignment_is_measured_every_so_many_epochs_and_after_the_last(
    small_run: dict[str, Any], every: int | None, expected: list[int]
) -> None:
    run = make(small_run, epochs=5)
    results = list(fit(run.state, run.source, dataclasses.replace(run.settings, alignment_every=every)))
    assert [r.epoch for r in results if r.alignment] == expected
    for result in results:
        assert ("gradient_angle/1" in result.metrics()) == (result.epoch in expected)
        assert "angle/1" in result.metrics()


def test_alignment_is_that_of_the_first_validation_images(small_run: dict[str, Any]) -> None:
    run = make(small_run, epochs=1, alignment={"every": 1, "images": 10}, label_smoothing=0.1)
    (result,) = train(run)
    images, labels = next(iter(run.source.batches("validation", 10)))
    assert len(labels) == 10
    loss = functools.partial(nn.functional.cross_entropy, label_smoothing=0.1)
    expected = measure_alignment(run.state.model, images, labels, loss=loss)
    assert list(result.alignment) == ["1", "3"]
    assert str(result.alignment) == str(expected)
    assert result.metrics()["gradient_angle/1"] == expected["1"].gradient_angle
    assert result.metrics()["angle/1"] == result.angles["1"]


def test_one_validation_image_is_too_few_to_measure_alignment(small_run: dict[str, Any]) -> None:
    small_run["data"]["validation"] = 1
    (result,) = train(make(small_run, model={"name": "resnet8", "width": 4}, epochs=1, alignment={"every": 1}))
    assert result.validation is not None
    assert result.alignment == {}


def test_evaluation_counts_every_example_once_over_uneven_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 7)).train()
    images, labels = torch.randn(23, 1, 2, 2), torch.randint(7, (23,))
    result = evaluate(model, zip(images.split(10), labels.split(10), strict=True))
    assert model.training
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(images)
    ranks = logits.argsort(1, descending=True)
    assert result.examples == 23
    assert result.top1 == pytest.approx(100 * float((ranks[:, 0] == labels).float().mean()))
    assert result.top5 == pytest.approx(100 * float((ranks[:, :5] == labels[:, None]).any(1).float().mean()))
    assert result.loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-6)


def test_top5_of_fewer_than_five_classes_is_whole() -> None:
    result = evaluate(nn.Flatten(), [(torch.randn(6, 3), torch.randint(3, (6,)))])
    assert result.top5 == 100


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(DataError, match="no batch"):
        evaluate(nn.Flatten(), [])


def test_label_smoothing_and_channels_last_reach_the_training(small_run: dict[str, Any]) -> None:
    plain = train(make(small_run))[0].train_loss
    assert train(make(small_run, label_smoothing=0.3))[0].train_loss != plain
    run = make({**small_run, "model": "resnet8", "compute": {"channels_last": True}})
    conv = next(m for m in run.state.model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_results_are_immutable(small_run: dict[str, Any]) -> None:
    result = train(make(small_run, epochs=1))[0]
    with pytest.raises(dataclasses.FrozenInstanceError, match="epoch"):
        result.epoch = 3  # type: ignore[misc]


# Pre-training on noise.


def noisy(content: dict[str, Any], epochs: int, **pretraining: Any) -> Run:
    """A run on an MLP with He's initial weights and Adam, as in the paper (arXiv 2405.16731)."""
    run = make(content, rule="feedback", model={"name": "mlp", "width": 128}, epochs=epochs, pretraining=pretraining)
    for layer in aligned_layers(run.state.model).values():
        nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.weight.shape[1]))
        nn.init.zeros_(layer.bias)
    run.state.optimizer = torch.optim.Adam(run.state.model.parameters(), lr=1e-3)
    return run


class Still(Constant):
    """A learning rate of nothing."""

    def factor(self, epoch: float, epochs: int) -> float:
        return 0.0


def noise_only(run: Run) -> dict[str, Any]:
    """The weights that noise alone leaves."""
    list(fit(run.state, run.source, dataclasses.replace(run.settings, schedule=Still())))
    return run.state.model.state_dict()


def test_noise_teaches_to_expect_nothing_and_turns_w_towards_b(small_run: dict[str, Any]) -> None:
    torch.manual_seed(0)
    content = {**small_run, "data": {**small_run["data"], "image_size": 16}}
    run = noisy(content, epochs=1, steps=600)
    before = weight_angles(run.state.model)["5"]
    images, labels = torch.randn(2000, 1, 16, 16), torch.randint(10, (2000,))
    loss_before = evaluate(run.state.model, [(images, labels)]).loss
    noise_only(run)
    loss_after = evaluate(run.state.model, [(images, labels)]).loss
    assert loss_after - math.log(10) < 0.25 * (loss_before - math.log(10))
    assert weight_angles(run.state.model)["5"] < before - 4


def test_momentum_starts_anew_with_the_data_and_the_rate_is_that_of_the_run(small_run: dict[str, Any]) -> None:
    pretrained = make(small_run, pretraining={"steps": 3, "lr": 0.5}, epochs=1)
    twin = make(small_run, epochs=1)
    twin.state.model.load_state_dict(noise_only(make(small_run, pretraining={"steps": 3, "lr": 0.5}, epochs=1)))
    assert timeless(train(pretrained)) == timeless(train(twin))


def test_a_resumed_run_is_not_pretrained_again(small_run: dict[str, Any], tmp_path: Path) -> None:
    content = {**small_run, "pretraining": {"steps": 5}}
    whole = make(content)
    results = train(whole)
    half = make(content)
    for result in fit(half.state, half.source, half.settings):
        if result.epoch == 2:
            break
    half.state.save(tmp_path / "checkpoint.pt")
    rest = make(content)
    resume(rest, tmp_path / "checkpoint.pt")
    assert timeless(train(rest)) == timeless(results)[2:]


def test_pretraining_changes_what_follows(small_run: dict[str, Any]) -> None:
    assert timeless(train(make(small_run))) != timeless(train(make(small_run, pretraining={"steps": 1})))


@pytest.mark.parametrize("done", [1, 2, 3])
def test_resuming_takes_the_same_turns_of_a_rule_that_leaves_steps_out(
    small_run: dict[str, Any], tmp_path: Path, done: int
) -> None:
    """Four steps in an epoch, of which every third aligns, and no checkpoint that counts them."""
    rule = {"name": "information", "alpha": 1e-2, "beta": 1e-3, "gamma": 1e-2, "align_every": 3}
    content = {**small_run, "rule": rule}
    whole = make(content)
    assert whole.source.steps_per_epoch(whole.settings.batch_size) == 4
    expected = train(whole)
    half, again = make(content), make(content)
    for _ in zip(range(done), fit(half.state, half.source, half.settings), strict=False):
        half.state.save(tmp_path / "checkpoint.pt")
    resume(again, tmp_path / "checkpoint.pt")
    assert timeless(train(again)) == timeless(expected[done:])
    for a, b in zip(whole.state.model.state_dict().values(), again.state.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_every_kth_step_aligns_across_epochs(small_run: dict[str, Any]) -> None:
    run = make({**small_run, "rule": {"name": "information", "align_every": 3}})
    turns: list[int] = []
    layer = next(iter(aligned_layers(run.state.model).values()))
    layer.backward_weight.register_hook(lambda g: None if g is None else turns.append(layer.steps - 1))  # type: ignore[union-attr]
    train(run)
    assert turns == [0, 3, 6, 9, 12, 15]


@pytest.mark.parametrize("model", [{"name": "mlp", "width": 16}, {"name": "resnet8", "width": 4}])
@pytest.mark.parametrize(
    "rule", [{"name": "mirror", "input_distribution": "normal"}, {"name": "information", "align_every": 3}]
)
def test_resuming_within_an_epoch_continues_bit_identically(
    small_run: dict[str, Any], tmp_path: Path, rule: dict[str, Any], model: dict[str, Any]
) -> None:
    content = {**small_run, "rule": rule, "model": model, "epochs": 2}
    content["data"] = {"name": "synthetic", "train": 320, "validation": 50, "image_size": 4, "channels": 1}
    settings = {"save_steps": 4}  # of 10 steps an epoch
    whole = make(content)
    saved: list[tuple[int, int]] = []

    def save(state: TrainState) -> None:
        saved.append((state.epoch, state.step))
        state.save(tmp_path / f"{state.epoch}-{state.step}.pt")

    expected = list(fit(whole.state, whole.source, dataclasses.replace(whole.settings, **settings), save=save))
    assert saved == [(0, 4), (0, 8), (1, 4), (1, 8)]
    for epoch, step in [(0, 8), (1, 4)]:
        again = make(content)
        resume(again, tmp_path / f"{epoch}-{step}.pt")
        assert (again.state.epoch, again.state.step) == (epoch, step)
        assert timeless(train(again)) == timeless(expected[epoch:])
        for a, b in zip(whole.state.model.state_dict().values(), again.state.model.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_every_step_is_told(small_run: dict[str, Any]) -> None:
    run = make(small_run, epochs=2)
    told: list[tuple[int, int, int, int, float, float]] = []

    def listen(p: StepProgress) -> None:
        told.append((p.epoch, p.step, p.steps, p.images, p.train_loss, p.train_top1))

    results = list(fit(run.state, run.source, run.settings, on_step=listen))
    assert [entry[:4] for entry in told] == [(e, s, 4, 32 * s) for e in (1, 2) for s in (1, 2, 3, 4)]
    assert told[-1][4:] == (results[-1].train_loss, results[-1].train_top1)
