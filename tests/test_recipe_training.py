"""The options of a recipe, each held against a training loop that is written out here."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from aln.alignment import measure_alignment
from aln.build import Run, build
from aln.config import parse_run
from aln.engine import EpochResult, fit
from aln.engine.modes import train_mode
from aln.errors import DataError
from aln.layers import aligned_layers
from aln.optim import backward_weights
from aln.seeds import derived_seed

LR, DECAY = 0.05, 1e-2
INFORMATION = {"name": "information", "alpha": 1e-2, "beta": 1e-3, "gamma": 1e-2}
GD = {"name": "gd", "lr": LR, "weight_decay": DECAY}
CONSTANT = {"name": "constant"}
STEPS = 4  # of an epoch


def make(small_run: dict[str, Any], **changes: Any) -> Run:
    """A run of two epochs by gradient descent at a constant rate."""
    recipe = {"rule": INFORMATION, "optimizer": GD, "schedule": CONSTANT, "epochs": 2}
    return build(parse_run({**small_run, **recipe, **changes}))


def train(run: Run) -> list[EpochResult]:
    return list(fit(run.state, run.source, run.settings))


def batches(run: Run) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The number of each step, and its batch."""
    for epoch in range(run.settings.epochs):
        for step, batch in enumerate(run.source.train_batches(32, derived_seed(0, epoch))):
            yield epoch * STEPS + step, *batch


def backward_pass(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Leaves the gradients of both losses."""
    model.zero_grad()
    cross_entropy(model(images), labels).backward()


@torch.no_grad()
def descend(parameters: dict[str, Tensor], decay: float = DECAY, rate: float = 1.0) -> None:
    """A step of gradient descent on what has a gradient, with weight decay on W and biases."""
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            decays = 0.0 if name.endswith("backward_weight") else decay
            parameter.sub_(rate * parameter.grad + decays * parameter, alpha=LR)


def by_part(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Forward and backward weights by name."""
    named = dict(model.named_parameters())
    backward = {name: p for name, p in named.items() if name.endswith("backward_weight")}
    return {name: p for name, p in named.items() if name not in backward}, backward


def same(model: nn.Module, other: nn.Module, rtol: float = 1e-5) -> None:
    assert model.state_dict().keys() == other.state_dict().keys()
    for (name, found), expected in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * 0.1, msg=lambda m, name=name: f"{name}: {m}")


def follow(run: Run, step: Callable[[nn.Module, int, Tensor, Tensor], None]) -> nn.Module:
    """A copy of the run's model, led through its batches by `step`; then the run is trained."""
    model = copy.deepcopy(run.state.model).train()
    for number, images, labels in batches(run):
        step(model, number, images, labels)
    train(run)
    return model


def snapshots(run: Run) -> list[dict[str, Tensor]]:
    """All weights, before training and after every step."""

    def weights(*_: object) -> None:
        taken.append({name: p.detach().clone() for name, p in run.state.model.named_parameters()})

    taken: list[dict[str, Tensor]] = []
    weights()
    list(fit(run.state, run.source, run.settings, on_step=weights))
    return taken


def test_by_default_both_losses_are_descended_at_once(small_run: dict[str, Any]) -> None:
    run = make(small_run, optimizer={"name": "sgd", "lr": LR})
    own = copy.deepcopy(run.state.model)
    optimizer = torch.optim.SGD(
        [{"params": [p for n, p in own.named_parameters() if ("backward" in n) == b], "weight_decay": decay}
         for b, decay in ((False, 1e-4), (True, 0.0))],
        lr=LR, momentum=0.9, nesterov=True, fused=True,
    )  # fmt: skip

    def step(model: nn.Module, number: int, images: Tensor, labels: Tensor) -> None:
        backward_pass(own, images, labels)
        optimizer.step()

    follow(run, step)
    for found, expected in zip(run.state.model.parameters(), own.parameters(), strict=True):
        assert torch.equal(found, expected)


# Turns and rates.


@pytest.mark.parametrize("rule", [INFORMATION, {"name": "kolen_pollack", "alpha": 0.1}], ids=lambda rule: rule["name"])
def test_alternation_trains_one_at_a_time(small_run: dict[str, Any], rule: dict[str, Any]) -> None:
    run = make(small_run, rule=rule, alternate_step_freq=2)

    def step(model: nn.Module, number: int, images: Tensor, labels: Tensor) -> None:
        backward_pass(model, images, labels)
        forward, backward = by_part(model)
        turn = number % 3 == 0
        tied = {name: forward[name.replace("backward_weight", "weight")].grad for name in backward}
        for name, parameter in backward.items():
            if rule["name"] == "kolen_pollack":
                parameter.grad = 2 * 0.1 * parameter.detach() if turn else tied[name]
            elif not turn:
                parameter.grad = None
        descend(backward)
        if not turn:
            descend(forward)

    same(run.state.model, follow(run, step))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"delay_epochs": 1.25}, [{"backward"}] * 5 + [{"backward", "forward"}] * 3),
        ({"alternate_step_freq": 2}, [{"backward"}, {"forward"}, {"forward"}] * 2 + [{"backward"}, {"forward"}]),
        ({"alternate_step_freq": 1, "delay_epochs": 0.5}, [{"backward"}] * 3 + [{"forward"}, {"backward"}] * 2),
    ],
    ids=["delay", "turns", "turns after a delay"],
)
def test_neither_momentum_nor_decay_moves_what_is_not_trained(
    small_run: dict[str, Any], changes: dict[str, Any], expected: list[set[str]]
) -> None:
    run = make(small_run, optimizer={"name": "sgd", "lr": LR, "weight_decay": DECAY}, **changes)
    moved = [
        {
            "backward" if name.endswith("backward_weight") else "forward"
            for name in a
            if not torch.equal(a[name], b[name])
        }
        for a, b in itertools.pairwise(snapshots(run))
    ]
    assert moved[: len(expected)] == expected


def test_what_is_not_trained_gathers_no_momentum(small_run: dict[str, Any]) -> None:
    """W sees its first gradient when B has momentum already, and neither moves in the other's turn."""
    run = make(small_run, optimizer={"name": "momentum", "lr": LR, "weight_decay": 0.0}, alternate_step_freq=1)
    velocity: dict[str, Tensor] = {}

    def step(model: nn.Module, number: int, images: Tensor, labels: Tensor) -> None:
        backward_pass(model, images, labels)
        for name, parameter in by_part(model)[number % 2 == 0].items():
            assert parameter.grad is not None
            velocity[name] = 0.9 * velocity.get(name, torch.zeros(())) + parameter.grad
            parameter.data -= LR * (parameter.grad + 0.9 * velocity[name])

    same(run.state.model, follow(run, step))


def test_delay_trains_alignment_alone_at_first(small_run: dict[str, Any]) -> None:
    run = make(small_run, delay_epochs=0.75)

    def step(model: nn.Module, number: int, images: Tensor, labels: Tensor) -> None:
        backward_pass(model, images, labels)
        forward, backward = by_part(model)
        descend(backward)
        if number >= 3:
            descend(forward)

    same(run.state.model, follow(run, step))


def test_in_a_delay_forward_weights_stand_still(small_run: dict[str, Any]) -> None:
    model = {"name": "resnet8", "width": 4}
    rule = {**INFORMATION, "update_forward": True}
    for name, moved in (("information", {"backward_weight"}), (rule, {"backward_weight", "weight"})):
        run = make(small_run, rule=name, model=model, optimizer="adam", epochs=2, delay_epochs=1)
        before = {name: p.detach().clone() for name, p in run.state.model.named_parameters()}
        next(fit(run.state, run.source, run.settings))
        layers = aligned_layers(run.state.model)
        for key, parameter in run.state.model.named_parameters():
            owner, _, kind = key.rpartition(".")
            assert torch.equal(parameter, before[key]) != (owner in layers and kind in moved), key


def test_rates_scale_each_loss_and_weight_decay_goes_with_the_tasks(small_run: dict[str, Any]) -> None:
    run = make(small_run, rates={"loss": 0.5, "alignment": 3.0, "drops": [1], "gamma": 0.1})

    def step(model: nn.Module, number: int, images: Tensor, labels: Tensor) -> None:
        backward_pass(model, images, labels)
        forward, backward = by_part(model)
        drop = 0.1 if number >= STEPS else 1.0
        descend(forward, rate=0.5 * drop, decay=0.5 * drop * DECAY)
        descend(backward, rate=3 * drop)

    same(run.state.model, follow(run, step))


def test_kolen_pollacks_tied_gradient_goes_with_the_tasks_rate(small_run: dict[str, Any]) -> None:
    rule = {"name": "kolen_pollack", "alpha": 0.1}
    run = make(small_run, rule=rule, rates={"loss": 0.5, "alignment": 3.0})

    def step(model: nn.Module, number: int, images: Tensor, labels: Tensor) -> None:
        backward_pass(model, images, labels)
        forward, backward = by_part(model)
        for name, B in backward.items():
            task = forward[name.replace("backward_weight", "weight")].grad
            assert task is not None
            B.grad = 0.5 * task + 3 * 2 * 0.1 * B.detach()
        descend(forward, rate=0.5, decay=0.5 * DECAY)
        descend(backward)

    same(run.state.model, follow(run, step))


def test_alignment_at_a_rate_of_nothing_is_feedback_alignment(small_run: dict[str, Any]) -> None:
    none, feedback = make(small_run, rates={"alignment": 0.0}), make(small_run, rule="feedback")
    train(none), train(feedback)
    for found, expected in zip(none.state.model.parameters(), feedback.state.model.parameters(), strict=True):
        assert torch.equal(found, expected)


# Coefficients.


def test_coefficients_change_in_every_step(small_run: dict[str, Any]) -> None:
    coefficients = {
        "alpha": {"schedule": "linear", "rate": 0.5},
        "gamma": {"schedule": "exponential", "rate": -1.0, "start": 0.25},
    }
    run = make(small_run, coefficients=coefficients)
    values = []

    def step(model: nn.Module, number: int, images: Tensor, labels: Tensor) -> None:
        epoch = number / STEPS
        gamma = 0.0 if epoch < 0.5 else 1e-2 * math.exp(-(epoch - 0.5))
        values.append({"alpha": 1e-2 + 0.5 * epoch, "gamma": gamma})
        for layer in aligned_layers(model).values():
            layer.rule = dataclasses.replace(layer.rule, **values[-1])
        backward_pass(model, images, labels)
        descend(dict(model.named_parameters()))

    model = copy.deepcopy(run.state.model).train()
    for number, images, labels in batches(run):
        step(model, number, images, labels)
    results = train(run)
    same(run.state.model, model)
    assert [r.coefficients for r in results] == [pytest.approx(values[3]), pytest.approx(values[7])]
    assert results[1].metrics()["coefficient/alpha"] == results[1].coefficients["alpha"]


def test_b_stands_still_while_all_coefficients_are_zero(small_run: dict[str, Any]) -> None:
    """Though it has momentum from before."""
    rule = {"name": "symmetric", "alpha": 0.1, "beta": 0.1}
    ended = {name: {"stop": 0.4} for name in ("alpha", "beta")}
    run = make(small_run, rule=rule, optimizer="sgd", coefficients=ended, epochs=3)
    results = fit(run.state, run.source, run.settings)
    kept = [[B.detach().clone() for B in backward_weights(run.state.model)] for _ in results]
    assert not torch.equal(kept[0][0], kept[1][0])
    assert all(torch.equal(a, b) for a, b in zip(kept[1], kept[2], strict=True))


# Optimizers.


def test_alignment_may_have_an_optimizer_and_a_schedule_of_its_own(small_run: dict[str, Any]) -> None:
    run = make(
        small_run,
        alignment_optimizer={"name": "adam", "lr": 1e-3, "reference_batch": 16},
        alignment_schedule={"name": "step", "drops": [1], "gamma": 0.5},
        schedule={"name": "step", "drops": [1], "gamma": 0.1},
    )
    own = copy.deepcopy(run.state.model)
    forward, backward = by_part(own)
    adam = torch.optim.Adam(backward.values(), lr=2e-3)
    for number, images, labels in batches(run):
        backward_pass(own, images, labels)
        with torch.no_grad():
            for parameter in forward.values():
                lr = LR * (0.1 if number >= STEPS else 1)
                parameter.sub_(parameter.grad + DECAY * parameter, alpha=lr)
        adam.param_groups[0]["lr"] = 2e-3 * (0.5 if number >= STEPS else 1)
        adam.step()
    results = train(run)
    same(run.state.model, own)
    assert [r.lr for r in results] == pytest.approx([LR, 0.1 * LR])
    assert [r.metrics()["alignment_lr"] for r in results] == pytest.approx([2e-3, 1e-3])
    assert "alignment_lr" not in train(make(small_run))[0].metrics()


def test_the_learning_rate_is_scaled_with_the_batch_where_asked(small_run: dict[str, Any]) -> None:
    run = make(small_run, optimizer={**GD, "reference_batch": 256})
    assert train(run)[0].lr == pytest.approx(LR * 32 / 256)


def test_pretraining_on_noise_starts_every_optimizer_anew(small_run: dict[str, Any]) -> None:
    run = make(small_run, alignment_optimizer="swats", pretraining={"steps": 3, "lr": 0.5}, epochs=1)
    before = [B.detach().clone() for B in backward_weights(run.state.model)]
    seen = []
    list(fit(run.state, run.source, run.settings, on_step=lambda p: seen.append(run.state.alignment_optimizer.state)))
    assert not torch.equal(before[0], backward_weights(run.state.model)[0])
    assert {float(entry["step"]) for entry in seen[-1].values()} == {STEPS}


# Clipping, noise, parts of a batch, frozen batch norms.


@pytest.mark.parametrize("clip", [{"norm": 0.5}, {"value": 0.02}], ids=str)
def test_gradients_are_clipped_with_their_weight_decay(small_run: dict[str, Any], clip: dict[str, float]) -> None:
    run = make(small_run, clip=clip)

    def step(model: nn.Module, number: int, images: Tensor, labels: Tensor) -> None:
        backward_pass(model, images, labels)
        gradients = {
            name: p.grad + (0 if "backward" in name else DECAY) * p.detach()
            for name, p in model.named_parameters()
            if p.grad is not None
        }
        norm = math.sqrt(sum(float(grad.square().sum()) for grad in gradients.values()))
        for name, parameter in model.named_parameters():
            grad = gradients[name]
            cut = grad.clamp(-0.02, 0.02) if "value" in clip else grad * min(1.0, 0.5 / norm)
            parameter.data.sub_(cut, alpha=LR)

    same(run.state.model, follow(run, step))
    assert run.state.optimizer.param_groups[0]["initial_weight_decay"] == DECAY


def test_noise_on_the_updates_of_b(small_run: dict[str, Any]) -> None:
    """Without decays B − W changes by the noise alone, whose variance adds up over the steps."""
    run = make(
        small_run,
        rule={"name": "kolen_pollack", "alpha": 0.0},
        optimizer={**GD, "weight_decay": 0.0},
        model={"name": "mlp", "width": 200, "depth": 1},
        noise={"variance": 4.0, "part": "backward"},
    )
    layers = aligned_layers(run.state.model).values()
    before = [(layer.backward_weight - layer.weight).detach() for layer in layers]
    train(run)
    added = torch.cat([(a.backward_weight - a.weight - b).flatten() for a, b in zip(layers, before, strict=True)])
    assert float(added.detach().std()) == pytest.approx(LR * 2 * math.sqrt(2 * STEPS), rel=0.05)


@pytest.mark.parametrize("part", ["all", "forward", "backward"])
def test_noise_goes_with_the_learning_rate_to_the_part_asked_for(small_run: dict[str, Any], part: str) -> None:
    plain, noisy = (snapshots(make(small_run, noise={"variance": v, "part": part}))[1] for v in (0.0, 0.04))
    for name, weight in plain.items():
        noise = (noisy[name] - weight) / LR
        if part in ("all", "backward" if name.endswith("backward_weight") else "forward"):
            assert float(noise.std()) == pytest.approx(0.2, rel=0.5)
        else:
            assert not noise.any()


@pytest.mark.parametrize("rule", [INFORMATION, {"name": "kolen_pollack"}, {"name": "akrout_kolen_pollack"}], ids=str)
def test_a_batch_in_parts_is_the_same_batch(small_run: dict[str, Any], rule: dict[str, Any]) -> None:
    whole, parts = make(small_run, rule=rule), make(small_run, rule=rule, accumulate=4)
    expected, found = train(whole), train(parts)
    same(parts.state.model, whole.state.model)
    assert [r.train_loss for r in found] == pytest.approx([r.train_loss for r in expected], rel=1e-5)
    assert [r.train_top1 for r in found] == [r.train_top1 for r in expected]


def test_gradients_of_parts_are_averaged(small_run: dict[str, Any]) -> None:
    """With batch norms, which see one part at a time."""
    run = make(small_run, model={"name": "resnet8", "width": 4}, accumulate=2, optimizer={**GD, "weight_decay": 0.0})

    def step(model: nn.Module, number: int, images: Tensor, labels: Tensor) -> None:
        model.zero_grad()
        for some in (slice(16), slice(16, 32)):
            cross_entropy(model(images[some]), labels[some]).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.data.sub_(parameter.grad / 2, alpha=LR)

    same(run.state.model, follow(run, step))


def test_all_parts_belong_to_one_step_of_a_rule_that_leaves_steps_out(small_run: dict[str, Any]) -> None:
    rule = {**INFORMATION, "align_every": 3}
    whole, parts = make(small_run, rule=rule), make(small_run, rule=rule, accumulate=4)
    train(whole), train(parts)
    same(parts.state.model, whole.state.model)


def test_parts_must_be_equal(small_run: dict[str, Any]) -> None:
    small_run["data"]["train"] = 30  # less than a batch
    with pytest.raises(DataError, match=r"30 images do not fall into 4 equal parts \(accumulate\)"):
        train(make(small_run, accumulate=4))


def test_frozen_batch_norms_neither_learn_nor_measure(small_run: dict[str, Any]) -> None:
    content = {"model": {"name": "resnet8", "width": 4}, "frozen_bn": True, "alignment": {"every": 1, "images": 8}}
    run = make(small_run, **content, optimizer={**GD, "weight_decay": 0.0})
    norms = [module for module in run.state.model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
            norm.weight.uniform_(0.9, 1.1)
    before = copy.deepcopy([norm.state_dict() for norm in norms])
    model = copy.deepcopy(run.state.model)
    train_mode(model, frozen_bn=True)
    for _, images, labels in batches(run):
        backward_pass(model, images, labels)
        descend(dict(model.named_parameters()), decay=0.0)
    results = train(run)
    same(run.state.model, model)
    for norm, state in zip(norms, before, strict=True):
        assert all(torch.equal(norm.state_dict()[name], value) for name, value in state.items())
    images, labels = next(iter(run.source.batches("validation", 8)))
    measured = measure_alignment(model, images, labels, train_mode=lambda m: train_mode(m, frozen_bn=True))
    plain = measure_alignment(model, images, labels)
    name = next(iter(measured))
    found = results[-1].alignment[name].gradient_angle
    assert found == pytest.approx(measured[name].gradient_angle, rel=1e-3)
    assert found != pytest.approx(plain[name].gradient_angle, rel=1e-3)


def test_alignment_is_measured_as_ever_after_a_step_without_the_task(small_run: dict[str, Any]) -> None:
    small_run["data"]["train"] = 32  # one step an epoch, of which the first and the last align
    run = make(small_run, alternate_step_freq=6, epochs=8, alignment={"every": 8, "images": 8})
    *_, last = train(run)
    layers = aligned_layers(run.state.model)
    assert not any(layer.trains_task for layer in layers.values())
    fresh = copy.deepcopy(run.state.model)
    for layer in aligned_layers(fresh).values():
        layer.trains_task, layer.alignment_rate = True, 1.0
    expected = measure_alignment(fresh, *next(iter(run.source.batches("validation", 8))))
    assert str(last.alignment) == str(expected)
    assert math.isfinite(last.alignment["3"].error_angle)
