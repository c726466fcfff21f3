"""Two files that are wrong in ten ways each: `python -m aln.sweep` says all of it at once and starts nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SPACE = """\
rule: {values: [information, miror]}
paramters: {}
parameters:
  rule.alpha: {min: 1e-1, max: 1e-4, log: true}
  rule.gama: {min: 1e-4, max: 1e-1}
  rule.gamma: {min: 1e-4, max: 1e-1, when: {rule.name: usf}}
  optimizer.momentum: {min: 0.5, max: 1.5}
  optimizer.lr: {tie: optimiser.lr}
  batch_size: {min: 16, max: 64, points: 1}
  epochs: {min: 2, max: 8}
constraints:
  - epochs > 9
enqueue:
  - {epochs: 9}
"""
WRONG_IN_SPACE = {
    1: "rule: unknown learning rule 'miror'; did you mean 'mirror'?",
    2: "paramters: unknown key; a search space has `rule`, `parameters`, `constraints` and `enqueue`",
    4: "rule.alpha: min 0.1 is not below max 0.0001",
    5: "rule.gama: unknown key",
    6: "rule.gamma: when.rule.name is usf, expected one of information, miror",
    7: "optimizer.momentum: momentum = 1.5",
    8: "optimizer.lr: is tied to 'optimiser.lr', which the space neither searches nor fixes",
    9: "batch_size: points is 1, expected a whole number above 1, and no step beside it",
    12: "constraints: 'epochs > 9' holds at none of 1,000 points drawn at random",
    14: "enqueue: point 1: epochs is 9, expected a number from 2 to 8",
}
SWEEP = """\
run:
  model: rsnet8
  epohs: 3
  batch_size: 0
trials: 0
metric: val_top1
objective: [val_top2, val_loss max]
sampler: {name: tpe, startup: -1}
scheduler: {name: ahsa}
baselines: [backprop, backprop]
stall_timeout: soon
"""
WRONG_IN_SWEEP = {
    2: ["run.model.name: unknown model 'rsnet8'; did you mean 'resnet8'?"],
    3: ["run.epohs: unknown key; did you mean 'run.epochs'?"],
    4: ["run.batch_size: is 0: input should be greater than or equal to 1"],
    5: ["trials: is 0: input should be greater than or equal to 1"],
    6: ["metric: is now part of the objective: write `objective: val_top1`"],
    7: [
        "objective: is 'val_top2': unknown metric 'val_top2'; did you mean 'val_top",
        "objective: is 'val_loss max': expected 'val_loss min'",
    ],
    8: ["sampler.startup: is -1: input should be greater than or equal to 1"],
    9: ["scheduler.name: is 'ahsa': input should be 'asha', 'hyperband', 'median' or 'none'"],
    10: ["baselines: is ['backprop', 'backprop']: expected each name once"],
    11: ["stall_timeout: is 'soon': input should be a valid number"],
}


def test_everything_wrong_in_two_files_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    command = [sys.executable, "-m", "aln.sweep", "space.yaml", "--sweep", "sweep.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    said = re.findall(r"^(?:error: )?\s*(\w+\.yaml):(\d+): (.*)$", done.stdout + done.stderr, flags=re.MULTILINE)
    expected = [("space.yaml", line, start) for line, start in WRONG_IN_SPACE.items()]
    expected += [("sweep.yaml", line, start) for line, starts in WRONG_IN_SWEEP.items() for start in starts]
    for file, line, start in expected:
        assert [1 for f, n, text in said if (f, int(n)) == (file, line) and text.startswith(start)] == [1], (
            start,
            said,
        )
    assert len(said) == len(expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["space.yaml", "sweep.yaml"]
