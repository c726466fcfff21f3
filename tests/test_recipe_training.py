"""What a recipe asks for is what training does: compared with loops written out by hand."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aln.build import Run, build, resume
from aln.config import parse_run
from aln.engine import EpochResult, fit
from aln.layers import aligned_layers
from aln.optim import backward_weights
from aln.seeds import derived_seed

SYMMETRIC = {"name": "symmetric", "alpha": 0.05, "beta": 0.1}


def make(content: dict[str, Any], **changes: Any) -> Run:
    content = {**content, "rule": SYMMETRIC, "epochs": 2, "schedule": {"name": "constant"}, **changes}
    content.setdefault("optimizer", {})
    content["optimizer"] = {"name": "sgd", "lr": 0.05, **content["optimizer"]}
    return build(parse_run(content))


def train(run: Run) -> list[EpochResult]:
    return list(fit(run.state, run.source, run.settings))


def weights(run: Run) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in run.state.model.named_parameters()}


def batches(run: Run) -> Any:
    """All training batches of the run, epoch after epoch."""
    for epoch in itertools.count():
        yield from run.source.train_batches(run.settings.batch_size, derived_seed(run.settings.seed, epoch))


def steps_by_hand(run: Run, steps: int, optimizer: torch.optim.Optimizer, each: Any) -> None:
    """`each(step, loss of the batch)` between zeroed gradients and the optimizer's step."""
    run.state.model.train()
    for step, (images, labels) in zip(range(steps), batches(run), strict=False):
        optimizer.zero_grad()
        each(step, F.cross_entropy(run.state.model(images), labels))
        optimizer.step()


def assert_equal(a: Run, b: Run, close: bool = False) -> None:
    for (name, ours), theirs in zip(weights(a).items(), weights(b).values(), strict=True):
        if close:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)
        else:
            assert torch.equal(ours, theirs), name


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Which kinds of weights changed: `backward`, `forward`."""
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    return {"backward" if name.endswith("backward_weight") else "forward" for name in changed}


def snapshots(run: Run) -> list[dict[str, Tensor]]:
    """The weights before training and after every step."""
    taken = [weights(run)]
    list(fit(run.state, run.source, run.settings, on_step=lambda _: taken.append(weights(run))))
    return taken


def test_the_delay_trains_alignment_alone_and_not_even_momentum_or_decay_move_the_rest(
    small_run: dict[str, Any],
) -> None:
    taken = snapshots(make(small_run, delay_epochs=1.0))
    kinds = [moved(a, b) for a, b in itertools.pairwise(taken)]
    assert kinds == [{"backward"}] * 4 + [{"backward", "forward"}] * 4


def test_task_and_alignment_take_turns(small_run: dict[str, Any]) -> None:
    taken = snapshots(make(small_run, alternate_step_freq=2))
    kinds = [moved(a, b) for a, b in itertools.pairwise(taken)]
    aligning, training = {"backward"}, {"forward"}
    assert kinds == [aligning, training, training, aligning, training, training, aligning, training]


def test_an_alternating_training_is_two_trainings_written_out(small_run: dict[str, Any]) -> None:
    run, hand = make(small_run, alternate_step_freq=1), make(small_run)
    train(run)
    (optimizer,) = hand.state.optimizers
    learned = set(backward_weights(hand.state.model))

    def each(step: int, loss: Tensor) -> None:
        loss.backward()
        for parameter in hand.state.model.parameters():
            if (parameter in learned) != (step % 2 == 0):
                parameter.grad = None

    steps_by_hand(hand, 8, optimizer, each)
    assert_equal(run, hand)


def test_rates_scale_the_task_with_its_decay_and_the_regularizer_apart(small_run: dict[str, Any]) -> None:
    decay = {"weight_decay": 0.01}
    run = make(small_run, optimizer=decay, rates={"loss": 0.5, "alignment": 3.0, "drops": [1], "gamma": 0.1})
    train(run)
    hand = make(small_run, optimizer=decay)
    (optimizer,) = hand.state.optimizers
    learned = set(backward_weights(hand.state.model))

    def each(step: int, loss: Tensor) -> None:
        drop = 0.1 if step >= 4 else 1.0
        (0.5 * drop * loss).backward()
        for parameter in learned:
            parameter.grad.mul_(3.0 * drop)  # type: ignore[union-attr]
        optimizer.param_groups[0]["weight_decay"] = 0.01 * 0.5 * drop

    steps_by_hand(hand, 8, optimizer, each)
    assert_equal(run, hand, close=True)


def test_kolen_pollacks_shared_gradient_follows_the_tasks_rate(small_run: dict[str, Any]) -> None:
    rule = {"name": "kolen_pollack", "alpha": 0.1}
    run = make(small_run, rule=rule, rates={"loss": 0.5, "alignment": 0.25}, optimizer={"weight_decay": 0.0})
    before = weights(run)
    taken = snapshots(run)
    name, layer = next(iter(aligned_layers(run.state.model).items()))
    change = {key: taken[1][f"{name}.{key}"] - before[f"{name}.{key}"] for key in ("weight", "backward_weight")}
    # The first Nesterov step moves by lr · 1.9 times the gradient.
    decayed = -0.05 * 1.9 * 0.25 * 2 * 0.1 * before[f"{name}.backward_weight"]
    torch.testing.assert_close(change["backward_weight"], change["weight"] + decayed, rtol=1e-4, atol=1e-7)
    assert layer.alignment_rate == 0.25


def test_alignment_has_an_optimizer_and_a_schedule_of_its_own(small_run: dict[str, Any]) -> None:
    own = {"alignment_optimizer": {"name": "adam", "lr": 0.01}, "alignment_schedule": {"name": "step", "drops": [1]}}
    run, hand = make(small_run, **own), make(small_run)
    results = train(run)
    assert [result.alignment_lr for result in results] == [0.01, pytest.approx(0.001)]
    assert [result.lr for result in results] == [0.05, 0.05]
    learned = backward_weights(hand.state.model)
    others = [p for p in hand.state.model.parameters() if not any(p is B for B in learned)]
    decaying = [p for p in others if p.dim() > 1 or p.shape[0] in (10, 16)]
    task = torch.optim.SGD(decaying, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    alignment = torch.optim.Adam(learned, lr=0.01)

    def each(step: int, loss: Tensor) -> None:
        loss.backward()
        alignment.param_groups[0]["lr"] = 0.01 if step < 4 else 0.001
        alignment.step()
        alignment.zero_grad()

    steps_by_hand(hand, 8, task, each)
    assert_equal(run, hand, close=True)


def test_parts_of_a_batch_add_up_to_the_batch(small_run: dict[str, Any]) -> None:
    whole, parts = make(small_run), make(small_run, accumulate=4)
    for a, b in zip(train(whole), train(parts), strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=1e-5)
    assert_equal(whole, parts, close=True)


def test_gradients_are_clipped_with_the_decay_in_them(small_run: dict[str, Any]) -> None:
    settings = {"optimizer": {"momentum": 0.0, "nesterov": False, "weight_decay": 0.1}}
    run = make(small_run, clip={"norm": 0.02}, **settings)
    for before, after in itertools.pairwise(snapshots(run)):
        step = torch.cat([(after[name] - before[name]).flatten() for name in before])
        assert float(step.norm()) == pytest.approx(0.05 * 0.02, rel=1e-3)


@pytest.mark.parametrize("part", ["all", "backward"])
def test_updates_are_noisy_by_the_learning_rate(small_run: dict[str, Any], part: str) -> None:
    plain, noisy = make(small_run, epochs=1), make(small_run, epochs=1, noise={"variance": 0.04, "part": part})
    after_one = [snapshots(run)[1] for run in (plain, noisy)]
    for name in after_one[0]:
        noise = (after_one[1][name] - after_one[0][name]) / 0.05
        if part == "all" or name.endswith("backward_weight"):
            assert float(noise.std()) == pytest.approx(0.2, rel=0.5)
        else:
            assert not noise.any()


def test_frozen_batch_norms_keep_their_statistics_and_weights(small_run: dict[str, Any]) -> None:
    run = make(small_run, model={"name": "resnet8", "width": 4}, frozen_bn=True)
    norms = [module for module in run.state.model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [[t.clone() for t in norm.state_dict().values()] for norm in norms]
    (first, *_) = snapshots(run)
    assert moved(first, weights(run)) == {"forward", "backward"}
    assert all(
        torch.equal(a, b)
        for norm, old in zip(norms, before, strict=True)
        for a, b in zip(norm.state_dict().values(), old, strict=True)
    )


def test_coefficients_change_over_the_training(small_run: dict[str, Any]) -> None:
    schedules = {"alpha": {"schedule": "exponential", "rate": -1.0}, "beta": {"start": 0.5}}
    run = make(small_run, coefficients=schedules)
    seen: list[tuple[float, float]] = []

    def look(_: object) -> None:
        (rule,) = {layer.rule for layer in aligned_layers(run.state.model).values()}
        seen.append((rule.alpha, rule.beta))  # type: ignore[attr-defined]

    results = list(fit(run.state, run.source, run.settings, on_step=look))
    expected = [(0.05 * math.exp(-step / 4), 0.1 if step >= 4 else 0.0) for step in range(8)]
    assert seen == [pytest.approx(pair) for pair in expected]
    assert results[-1].coefficients == {"alpha": seen[-1][0], "beta": 0.1}
    assert results[-1].metrics()["coefficient/alpha"] == seen[-1][0]


def test_the_learning_rate_is_scaled_to_the_batch(small_run: dict[str, Any]) -> None:
    run = make(small_run, optimizer={"lr": 0.1, "reference_batch": 256})
    assert train(run)[-1].lr == pytest.approx(0.1 * 32 / 256)


RECIPES: list[dict[str, Any]] = [
    {"alignment_optimizer": {"name": "adam"}, "alignment_schedule": "cosine"},
    {"optimizer": {"name": "swats", "lr": 1e-2}},
    {"optimizer": {"name": "radam", "lr": 1e-2}},
    {"noise": {"variance": 0.01}, "alternate_step_freq": 1},
    {"coefficients": {"alpha": {"rate": 0.01}}, "accumulate": 2, "clip": {"value": 0.1}},
]


@pytest.mark.parametrize("recipe", RECIPES, ids="+".join)
def test_every_recipe_resumes_bit_identically(
    small_run: dict[str, Any], tmp_path: Path, recipe: dict[str, Any]
) -> None:
    whole, half, again = (make(small_run, **{**recipe, "epochs": 4}) for _ in range(3))
    train(whole)
    for _ in zip(range(2), fit(half.state, half.source, half.settings), strict=False):
        half.state.save(tmp_path / "half.pt")
    resume(again, tmp_path / "half.pt")
    assert again.state.epoch == 2
    train(again)
    assert_equal(whole, again)
