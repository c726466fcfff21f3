"""The only place where names become objects: from a run configuration to what `engine.fit` takes."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aln.batch_norm import synchronise
from aln.checkpoint import TrainState, read_checkpoint
from aln.config import Component, Compute, RunConfig, course_of, parse_run, scheduled_rule
from aln.config.components import component_model
from aln.conversion import align
from aln.data import ImageSource, SplitName
from aln.devices import find_device, lays_out
from aln.engine import Evaluation, FitSettings, NoisePretraining, Precision, evaluate
from aln.errors import CheckpointError, ConfigError
from aln.world import ALONE, World

# Sections in which a run may differ from the checkpoint that it continues.
_FREE = ("compute", "resources", "checkpoint", "alignment")


@dataclass(frozen=True)
class Run:
    """Everything that `fit(run.state, run.source, run.settings)` needs."""

    state: TrainState
    source: ImageSource
    settings: FitSettings


def build(config: RunConfig, world: World = ALONE) -> Run:
    """Makes data, model, rule, optimizer and schedule. The initial weights depend on the run's seed alone.

    `world` is who will train it: with many workers and `sync_batch_norm`, batch norms see all of them.
    """
    device = find_device(config.compute.device)
    source = load_data(config.data)
    model = build_model(config, source).to(device)
    if config.compute.channels_last and lays_out(device):
        model = model.to(memory_format=torch.channels_last)
    if config.sync_batch_norm and world.workers > 1:
        model = synchronise(model)
    state = build_state(config, model)
    own_schedule = config.alignment_schedule
    settings = FitSettings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        schedule=config.schedule.make("schedule"),
        seed=config.seed,
        label_smoothing=config.label_smoothing,
        precision=choose_precision(config.compute, device),
        deterministic=config.compute.deterministic,
        alignment_every=config.alignment.every,
        alignment_images=config.alignment.images,
        save_steps=config.checkpoint.steps,
        pretraining=NoisePretraining(steps=config.pretraining.steps, lr=config.pretraining.lr),
        alignment_schedule=None if own_schedule is None else own_schedule.make("alignment_schedule"),
        course=course_of(config),
        scheduled_rule=scheduled_rule(config),
        clip=config.clip.make(),
        noise=config.noise.make(),
        accumulate=config.accumulate,
        frozen_bn=config.frozen_bn,
    )
    return Run(state, source, settings)


def build_state(config: RunConfig, model: nn.Module) -> TrainState:
    """The state from which the model's training begins."""
    optimizer = config.optimizer.make("optimizer").scaled(config.batch_size)
    own, alignment_optimizer = config.alignment_optimizer, None
    if own is not None:
        alignment_optimizer = own.make("alignment_optimizer").scaled(config.batch_size).build(model, "backward")
    return TrainState(
        model,
        optimizer.build(model, "all" if own is None else "forward"),
        description=config.plain(),
        alignment_optimizer=alignment_optimizer,
    )


def build_model(config: RunConfig, source: ImageSource) -> nn.Module:
    """The model for the data's images and classes, aligned by the rule, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # the CPU's alone: models are made there
        model: nn.Module = config.model.make("model", source.input_shape, source.num_classes)
        return align(model, config.rule.make("rule"))


def load_data(data: Component) -> ImageSource:
    """The data set, kept for the next caller in this process that asks for the same one."""
    return _load_data(data.name, json.dumps(data.options(), sort_keys=True))


@functools.lru_cache(maxsize=1)
def _load_data(name: str, options: str) -> ImageSource:
    source: ImageSource = component_model("data", name)(name=name, **json.loads(options)).make("data")
    return source


def resume(run: Run, path: Path) -> None:
    """Continues `run` from a checkpoint. Raises `CheckpointError` if it is unreadable or of another configuration.

    Where things happen, and how often what training does not notice (`compute`, `resources`, `checkpoint`,
    `alignment`), may have changed.
    """
    resume_from(run, read_checkpoint(path), str(path))


def resume_from(run: Run, content: Mapping[str, Any], place: str) -> None:
    """Continues `run` from the content of a checkpoint that was read from `place`; see `resume`."""
    require_same(parse_run(run.state.description), content, place)
    run.state.take_over(content, place)


def require_same(config: RunConfig, content: Mapping[str, Any], place: str) -> None:
    """Raises `CheckpointError` unless a run of the configuration may continue from the checkpoint; see `resume`."""
    try:
        theirs = parse_run(content["description"]).flat()
    except ConfigError as error:
        raise CheckpointError(f"{place}: its configuration is no longer valid: {error}") from error
    ours = config.flat()
    changed = [
        f"{key} was {theirs.get(key)!r} and is {ours.get(key)!r}"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key) != ours.get(key) and key.split(".")[0] not in _FREE
    ]
    if changed:
        raise CheckpointError(f"{place}: belongs to another configuration: {'; '.join(changed)}")


def load_weights(run: Run, content: Mapping[str, Any], address: str) -> None:
    """Gives the run's model the weights of a checkpoint that was read from `address`, and takes nothing else from it.

    Raises `CheckpointError` naming what the data set has and every entry that does not fit.
    """
    theirs, ours = content["model"], run.state.model.state_dict()
    misfits = [f"{key} is missing" for key in ours.keys() - theirs.keys()]
    misfits += [f"{key} is not in the model" for key in theirs.keys() - ours.keys()]
    misfits += [
        f"{key} is {list(theirs[key].shape)}, expected {list(ours[key].shape)}"
        for key in ours.keys() & theirs.keys()
        if theirs[key].shape != ours[key].shape
    ]
    if misfits:
        channels, height, width = run.source.input_shape
        raise CheckpointError(
            f"{address}: its model does not fit the data ({channels} channels, {height}×{width} pixels, "
            f"{run.source.num_classes} classes): {'; '.join(sorted(misfits))}"
        )
    run.state.model.load_state_dict(theirs)


def evaluate_split(run: Run, split: SplitName, world: World = ALONE) -> Evaluation:
    """The run's model on every example of a split, which the workers share."""
    device = next(run.state.model.parameters()).device
    batches = run.source.to(device).batches(split, 4 * run.settings.batch_size, share=world.share)
    return evaluate(run.state.model, batches, run.settings.precision, world)


def evaluate_test(run: Run, world: World = ALONE) -> Evaluation:
    """The run's model on the test split, which nothing else looks at."""
    return evaluate_split(run, "test", world)


def choose_precision(compute: Compute, device: torch.device) -> Precision:
    """`auto` is bfloat16 on the GPUs of CUDA that compute in it themselves, where it helps, and float32 elsewhere."""
    if compute.precision == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if native else "float32"
    return compute.precision
