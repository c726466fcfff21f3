"""What one trial takes, and what a dry run says of it."""

from __future__ import annotations

from typing import Any

import pytest

from aln.config import Resources, parse_run
from aln.errors import AlnError
from aln.search.cost import Cost, cost_of
from aln.sweep_summary import memory_lines, time_lines

GIB = 2**30


def test_a_trial_is_measured_in_a_process_of_its_own(small_run: dict[str, Any]) -> None:
    ballast = bytearray(b"x") * (2 * GIB)  # not the trial's
    cost = cost_of(parse_run(small_run))
    assert cost.seconds > 0
    assert cost.start > cost.seconds  # importing torch takes longer than 128 images
    assert GIB // 10 < cost.memory < len(ballast)
    assert (cost.gpu_memory, cost.gpu_has) == (0, 0)


def test_what_a_trial_fails_of_is_said(small_run: dict[str, Any]) -> None:
    data = {"name": "imagenet", "root": "nowhere"}
    with pytest.raises(AlnError, match="nowhere"):
        cost_of(parse_run({**small_run, "data": data}))


@pytest.mark.parametrize(
    ("cost", "resources", "at_once", "said"),
    [
        (Cost(seconds=1, memory=GIB), {}, 8, ["One takes about 1 GiB of 8 GiB of memory, which would hold 8."]),
        (
            Cost(seconds=1, memory=3 * GIB),
            {},
            4,
            [
                "One takes about 3 GiB of 8 GiB of memory, which would hold 2.",
                "[bold]4 at once take about 12 GiB, more than there is: say max_concurrent=2.[/bold]",
            ],
        ),
        (
            Cost(seconds=1, memory=3 * GIB),
            {"workers": 2},
            1,
            ["One takes about 6 GiB of 8 GiB of memory, which would hold 1."],
        ),
        (
            Cost(seconds=1, memory=9 * GIB),
            {},
            1,
            [
                "One takes about 9 GiB of 8 GiB of memory, which would hold 0.",
                "[bold]This machine has not the memory for one trial.[/bold]",
            ],
        ),
        (
            Cost(seconds=1, memory=0, gpu_memory=3 * GIB, gpu_has=16 * GIB),
            {"gpus": 1},
            1,
            ["Its tensors take 3 GiB of 16 GiB of a GPU's memory: resources.gpus=0.25 would fit."],
        ),
        (
            Cost(seconds=1, memory=0, gpu_memory=3 * GIB, gpu_has=16 * GIB),
            {"gpus": 0.2},
            5,
            [
                "Its tensors take 3 GiB of 16 GiB of a GPU's memory: resources.gpus=0.25 would fit.",
                "[bold]resources.gpus=0.2 puts more trials on a GPU than it has memory for.[/bold]",
            ],
        ),
    ],
    ids=["fits", "too many", "workers", "too large", "gpu", "gpu too full"],
)
def test_a_dry_run_says_what_fits(cost: Cost, resources: dict[str, Any], at_once: int, said: list[str]) -> None:
    assert memory_lines(cost, Resources(**resources), at_once, machine=8 * GIB) == said


def test_a_dry_run_says_what_starting_takes_besides_training() -> None:
    training, starting = time_lines(Cost(seconds=3, memory=0, start=4), trials=300, epochs=10, at_once=2)
    assert training == "An epoch takes about 3 s: at most 1.2 hours for 300 trials, less with early stopping."
    assert starting == "Start-up comes on top, about 0.7 minutes: 10 s for Ray and the first processes, 0.2 s a trial."
