"""`python -m aln.import_tf CHECKPOINT --model NAME --out FILE`: the original's TensorFlow checkpoint as one of ours.

Needs the extra `tensorflow`. The result holds the network's variables, for `aln.validate` and to train on from; the
optimizer starts afresh. What the checkpoint says of neither model nor task is left aside:

- slots of optimizers and moving averages (`aln.tensorflow_checkpoint.without_slots`);
- `global_step`, `beta1_power` and `beta2_power`, also within a scope and numbered (`train/beta1_power_1`);
- backward kernels, if the rule has no B (`--rule backprop`).

Everything else must match by name and shape.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from aln.build import build_state
from aln.checkpoint import TrainState
from aln.command import add_settings, guarded, relative
from aln.config import Document, RunConfig, parse_run, with_settings
from aln.conversion import align
from aln.errors import CheckpointError, ConfigError, Problem
from aln.models.resnet import ResNet
from aln.models.tensorflow_names import tensorflow_variables
from aln.tensorflow_checkpoint import read_variables

_Shapes = Mapping[str, tuple[int, ...]]
_COUNTERS = re.compile(r"(.*/)?(global_step|beta[12]_power)(_\d+)?")
_LARGE = re.compile(r"resnet(18|34|50|101|152|200)(v2)?")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (0 imported, 2 bad input)."""
    return guarded(_main, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aln.import_tf", description=__doc__.splitlines()[0])
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="prefix of its files (model.ckpt-450000), or their folder"
    )
    parser.add_argument("--model", required=True, help="resnet18 … resnet200, resnet18v2 … resnet200v2")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the checkpoint to write")
    parser.add_argument("--rule", default="information", help="the rule it was trained by (default: information)")
    add_settings(parser, "describe the run further: rule.alpha=…, data=…")
    return parser


def _main(options: argparse.Namespace, console: Console) -> int:
    named = Document({"rule": {"name": options.rule}, "model": {"name": options.model}})
    document = with_settings(named, options.set)
    config = parse_run(document)
    problems = []
    if not _LARGE.fullmatch(config.model.name):
        message = (
            f"is '{config.model.name}', expected one of the original's: resnet18 … resnet200, with v2 behind or not"
        )
        problems.append(Problem(key="--model", message=message))
    if options.out.exists():
        problems.append(Problem(key="--out", message=f"{options.out} exists; choose another name"))
    if problems:
        raise ConfigError(problems)
    state = import_variables(config, read_variables(options.checkpoint))
    if "data" not in document.content:  # `aln.validate` then asks for it
        del state.description["data"]
    state.save(options.out)
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    console.print(f"{parameters:,} parameters  {relative(options.out)}", highlight=False, soft_wrap=True)
    return 0


def import_variables(config: RunConfig, arrays: Mapping[str, np.ndarray]) -> TrainState:
    """The configuration's network with a checkpoint's values. Raises `CheckpointError` naming all that does not match.

    Number of classes and of channels are the checkpoint's.
    """
    shapes = {name: array.shape for name, array in arrays.items()}
    classes = next(iter(shapes.get("dense/bias", ())), 1000)
    channels = shapes["conv0/forward_kernel"][2] if len(shapes.get("conv0/forward_kernel", ())) == 4 else 3
    model: Any = config.model.make("model", (channels, 224, 224), classes)
    assert isinstance(model, ResNet)
    align(model, config.rule.make("rule"))
    variables = {variable.name: variable for variable in tensorflow_variables(model)}
    expected = {name: variable.shape for name, variable in variables.items()}
    if problems := mismatches(expected, shapes):
        raise CheckpointError("\n".join(problems))
    values = {
        variable.key: variable.from_tensorflow(arrays[name].astype(np.float32)) for name, variable in variables.items()
    }
    kept = {
        key: value
        for key, value in model.state_dict().items()
        if key.endswith(("num_batches_tracked", "fixed_feedback"))
    }
    model.load_state_dict(values | kept)
    return build_state(config, model)


def mismatches(expected: _Shapes, found: _Shapes) -> list[str]:
    """What of a checkpoint does not match: one line for each variable that is missing, misshapen, or left over."""
    problems = []
    for name, shape in expected.items():
        if name not in found:
            problems.append(f"{name}: missing, expected shape {list(shape)}")
        elif found[name] != shape:
            problems.append(f"{name}: has shape {list(found[name])}, expected {list(shape)}")
    return problems + [
        f"{name}: not a variable of this model, shape {list(found[name])}"
        for name in sorted(found.keys() - expected.keys())
        if not _left_aside(name, expected)
    ]


def _left_aside(name: str, expected: _Shapes) -> bool:
    """Whether a variable that the model does not have counts something, or is the B of a layer that has none."""
    backward = name.replace("/backward_kernel", "/forward_kernel")
    return backward in expected or _COUNTERS.fullmatch(name) is not None


if __name__ == "__main__":
    sys.exit(main())
