"""What is shown of a training, in a pipe and on a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from aln.engine import EpochResult, Evaluation
from aln.progress import TrainingProgress


def result(epoch: int, top1: float | None) -> EpochResult:
    validation = None if top1 is None else Evaluation(top1=top1, top5=99.0, loss=0.5, examples=10)
    return EpochResult(
        epoch=epoch,
        train_loss=1.25,
        train_top1=50.0,
        validation=validation,
        lr=0.1,
        images_per_second=1234.5,
        seconds=1.0,
    )


def test_a_pipe_gets_a_line_an_epoch() -> None:
    out = io.StringIO()
    with TrainingProgress(Console(file=out, width=200), epochs=12, done=8) as progress:
        for step in range(5):
            progress.step(SimpleNamespace(epoch=9, step=step, steps=5))  # type: ignore[arg-type]
        progress.epoch(result(9, 61.5))
        progress.epoch(result(10, None))
    assert out.getvalue().splitlines() == [
        "epoch   9/12  loss 1.2500  val top-1 61.50 %  1234 images/s",
        "epoch  10/12  loss 1.2500  diverged  1234 images/s",
    ]


def test_a_loss_is_not_read_for_every_step() -> None:
    """Reading it waits for the device."""
    read: list[int] = []

    class Told(SimpleNamespace):
        @property
        def train_loss(self) -> float:
            read.append(self.step)
            return 1.0

    with TrainingProgress(Console(file=io.StringIO(), force_terminal=True), epochs=1) as progress:
        for step in range(1000):
            progress.step(Told(epoch=1, step=step, steps=1000, images_per_second=1.0, train_top1=0.0))  # type: ignore[arg-type]
    assert 1 <= len(read) < 100


def test_a_terminal_shows_loss_accuracy_speed_and_the_time_left(workplace: Path) -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "40"}
    command = [sys.executable, "-m", "aln.train", "backprop", "--set", "model=resnet20", "epochs=4"]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=workplace) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                seen += os.read(master, 65536)
            except OSError:  # the terminal's other end is gone
                break
    os.close(master)
    assert process.returncode == 0, seen.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    numbers = r"loss \d\.\d+  top-1 \d+\.\d\d %  val top-1 \d+\.\d\d %  \d+ images/s"
    assert re.search(rf"epoch \d/4 .*\d+% {numbers} \d:\d\d:\d\d < \d:\d\d:\d\d", text)
    assert "Test top-1" in text
    assert not re.search(r"epoch +\d/4  loss", text)  # the lines of a pipe
