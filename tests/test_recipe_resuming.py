"""Trainings by any recipe continue bit-identically from a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from aln.build import Run, build
from aln.checkpoint import TrainState
from aln.config import parse_run
from aln.engine import fit
from aln.errors import CheckpointError
from aln.optim import SWATS


def make(small_run: dict[str, Any], **changes: Any) -> Run:
    return build(parse_run({**small_run, "epochs": 3, **changes}))


STATEFUL: dict[str, dict[str, Any]] = {
    "adam of its own": {"alignment_optimizer": {"name": "adam", "lr": 1e-3}},
    "swats of its own": {"alignment_optimizer": {"name": "swats", "lr": 1e-3, "tolerance": 1.0}},
    "swrats": {"optimizer": {"name": "swrats", "lr": 1e-3}},
    "rmsprop in turns": {"optimizer": {"name": "rmsprop", "lr": 1e-3, "momentum": 0.5}, "alternate_step_freq": 2},
    "momentum after a delay": {"optimizer": "momentum", "delay_epochs": 1.5},
    "coefficients": {"coefficients": {"alpha": {"rate": 0.1, "cycle": 1.5}, "beta": {"start": 0.4}}},
    "noise": {"noise": {"variance": 1e-2}, "optimizer": "radam"},
    "rates, clipped, in parts": {
        "rates": {"loss": 0.5, "drops": [1, 2]},
        "clip": {"norm": 0.5},
        "accumulate": 2,
        "optimizer": {"name": "sgd", "lr": 0.05, "weight_decay": 1e-2},
    },
    "frozen": {"frozen_bn": True, "model": {"name": "resnet8", "width": 4}, "optimizer": "adagrad"},
}


@pytest.mark.parametrize("case", STATEFUL)
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_resumed_run_goes_on_bit_identically(
    small_run: dict[str, Any], tmp_path: Path, case: str, epoch: int
) -> None:
    """From the middle of either epoch."""
    whole, rest = make(small_run, **STATEFUL[case]), make(small_run, **STATEFUL[case])
    saving = dataclasses.replace(whole.settings, save_steps=2)

    def save(state: TrainState) -> None:
        if state.epoch == epoch:
            state.save(tmp_path / "half.pt")

    expected = list(fit(whole.state, whole.source, saving, save=save))
    rest.state.load(tmp_path / "half.pt")
    assert (rest.state.epoch, rest.state.step) == (epoch, 2)
    found = list(fit(rest.state, rest.source, rest.settings))
    assert [r.train_loss for r in found] == [r.train_loss for r in expected[epoch:]]
    for a, b in zip(rest.state.model.state_dict().values(), whole.state.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(rest.state.optimizers, whole.state.optimizers, strict=True):
        assert str(a.state_dict()) == str(b.state_dict())


def test_swats_has_switched_where_it_was_resumed(small_run: dict[str, Any]) -> None:
    """So that the test above resumes SGD as well as Adam."""
    run = make(small_run, **STATEFUL["swats of its own"])
    list(fit(run.state, run.source, run.settings))
    assert isinstance(run.state.alignment_optimizer, SWATS)
    assert run.state.alignment_optimizer.switched


def test_a_checkpoint_without_the_second_optimizer_is_refused(small_run: dict[str, Any], tmp_path: Path) -> None:
    make(small_run).state.save(tmp_path / "one.pt")
    with pytest.raises(CheckpointError, match="another model or optimizer"):
        make(small_run, alignment_optimizer="adam").state.load(tmp_path / "one.pt")
