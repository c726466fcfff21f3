"""The configuration of one run: rule, model, data, recipe. The defaults are the embedded job (digits, ResNet-8)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, create_model

from aln.config.components import Component, component_model
from aln.config.course import Clipping, Coefficient, Noise, Rates, course_problems
from aln.config.documents import Document, dump, read_document
from aln.config.layering import layered
from aln.config.section import Section
from aln.errors import AlnError, ConfigError, Problem, RegistryError
from aln.hints import hint, hint_of_path, nearest, suggestion

_DEFAULT_NAMES = {"rule": "backprop", "model": "resnet8", "data": "digits", "optimizer": "sgd", "schedule": "cosine"}
# Sections that a run may leave out, and what they are called if they do not say.
_OPTIONAL_NAMES = {"alignment_optimizer": "sgd", "alignment_schedule": "cosine"}


class Compute(Section):
    """On what a run computes.

    Attributes:
        device: `auto` is a CUDA GPU if there is one, else Apple's (mps), else the CPU, and for trials of a sweep and
            for many workers what `resources.gpus` says. `xla`, a TPU by torch_xla (the extra `xla`), is never taken
            unasked. A device that the machine does not have is refused.
        precision: of forward and backward kernels; weights stay float32. `auto` is bfloat16 on GPUs of CUDA that have
            it, float32 elsewhere. float32 leaves TF32 as torch has it.
        channels_last: the memory layout of images and kernels, on CPU and CUDA.
        deterministic: the same run twice gives the same bits on the same machine, but for kernels of CUDA that torch
            warns of.
    """

    device: Literal["auto", "cpu", "cuda", "mps", "xla"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True
    deterministic: bool = True


class Resources(Section):
    """What one run takes: workers that share every batch, and for each of them CPU cores (as many torch threads) and
    GPUs (a fraction shares one). Of many workers some may be lost; so often all of them go on from the last checkpoint.
    """

    workers: int = Field(1, ge=1)
    cpus: int = Field(1, ge=1)
    gpus: float = Field(0.0, ge=0)
    restarts: int = Field(3, ge=0)

    @property
    def device(self) -> str:
        """What `auto` is for a process that Ray places: it has the GPUs that it asks for, and no others."""
        return "cuda" if self.gpus else "cpu"


class Checkpoint(Section):
    """When a run is saved, besides at its end, and what is kept: every so many epochs, and every so many steps within
    an epoch if `steps` is set; the last `keep_last` checkpoints and the `keep_best` ones of the best validation top-1.
    """

    every: int = Field(5, ge=1)
    steps: int | None = Field(None, ge=1)
    keep_last: int = Field(2, ge=1)
    keep_best: int = Field(1, ge=0)


class Pretraining(Section):
    """Training on random noise before the data, see `aln.engine.NoisePretraining`."""

    steps: int = Field(0, ge=0)
    lr: float | None = Field(None, gt=0)


class Alignment(Section):
    """How often the layers' alignment is measured (epochs, 0: never), and on how many images; see `aln.alignment`."""

    every: int = Field(10, ge=0)
    images: int = Field(32, ge=2)


class RunConfig(Section):
    """One training run, complete. Make it with `parse_run`.

    Attributes:
        optimizer: of all weights, or of the forward ones if `alignment_optimizer` moves the backward ones.
        alignment_schedule: of the latter's learning rate; `schedule` if null.
        accumulate: each batch goes through in so many equal parts, whose gradients are averaged: the memory of a part.
        frozen_bn: batch norms use their running statistics and do not learn.
        coefficients: those of the rule that change over time, by name.
        delay_epochs, alternate_step_freq: when the task and when alignment is trained, see `aln.optim.Course`.
    """

    rule: Component
    model: Component
    data: Component
    optimizer: Component
    schedule: Component
    alignment_optimizer: Component | None = None
    alignment_schedule: Component | None = None
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(64, ge=1)
    accumulate: int = Field(1, ge=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    sync_batch_norm: bool = Field(False, description="batch norms of many workers see the whole batch")
    seed: int = Field(0, ge=0, lt=2**63)
    pretraining: Pretraining = Pretraining()
    delay_epochs: float = Field(0.0, ge=0)
    alternate_step_freq: int = Field(0, ge=0)
    rates: Rates = Rates()
    coefficients: dict[str, Coefficient] = Field(default_factory=dict)
    noise: Noise = Noise()
    clip: Clipping = Clipping()
    frozen_bn: bool = False
    alignment: Alignment = Alignment()
    checkpoint: Checkpoint = Checkpoint()
    compute: Compute = Compute()
    resources: Resources = Resources()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as plain data: the schema is made anew for the names that a configuration holds."""
        return parse_run, (self.plain(),)

    def flat(self) -> dict[str, Any]:
        """All settings under dotted keys: `rule.name`, `rule.alpha`, `optimizer.lr`, `epochs` …"""
        return dict(flatten(self.plain()))

    def plain(self) -> dict[str, Any]:
        """The configuration as plain data, from which `parse_run` makes it again."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The configuration as YAML, complete."""
        return dump(self.plain())


def parse_run(document: Document | Mapping[str, Any]) -> RunConfig:
    """The run that a document describes. Raises `ConfigError` with every problem in it."""
    if not isinstance(document, Document):
        document = Document(dict(document))
    config, problems = check_run(document.content)
    if problems or config is None:
        raise ConfigError([located(problem, document) for problem in problems])
    return config


def check_run(
    content: Mapping[str, Any], prefix: str = "", *, with_rule: bool = True
) -> tuple[RunConfig | None, list[Problem]]:
    """The run, or None, and every problem found.

    Args:
        prefix: where the run's keys begin in what the user wrote.
        with_rule: False for a run whose rule is yet to come, against which nothing is checked.
    """
    content, problems = layered(content, prefix)
    names: dict[str, str] = {}
    for section, default in {**_DEFAULT_NAMES, **_OPTIONAL_NAMES}.items():
        value = content.get(section)
        if value is None and section in _OPTIONAL_NAMES:
            continue
        value = {"name": value} if isinstance(value, str) else value if value is not None else {}
        if not isinstance(value, Mapping):
            message = f"is {value!r}, expected a name, or a name and its options"
            problems.append(Problem(key=prefix + section, message=message))
            content.pop(section, None)
            value = {}
        value = {"name": default, **value}
        try:
            names[section] = str(value["name"])
            component_model(section, names[section])
            content[section] = value
        except RegistryError as error:
            problems.append(Problem(key=f"{prefix}{section}.name", message=str(error)))
            content[section] = {"name": default}
            names[section] = default
    schema = _schema(**names)
    try:
        config = schema.model_validate(content)
    except ValidationError as error:
        return None, problems + problems_of(error, known_keys(schema), prefix)
    unsound = []
    for section in ("rule", "optimizer", "schedule", *(name for name in _OPTIONAL_NAMES if name in names)):
        try:
            getattr(config, section).make(section)
        except AlnError as error:  # bounds that types do not tell
            unsound.append(Problem(key=prefix + section, message=str(error)))
    if not unsound:
        clashes = course_problems(config, with_rule)
        unsound = [Problem(key=prefix + problem.key, message=problem.message) for problem in clashes]
    if config.batch_size % config.resources.workers:
        message = f"is {config.batch_size}, expected a multiple of resources.workers, {config.resources.workers}"
        unsound.append(Problem(key=f"{prefix}batch_size", message=message))
    if config.resources.workers > 1:
        unsound += device_problems(config, prefix)
    problems += unsound
    return (None if problems else config), problems


def device_problems(config: RunConfig, prefix: str = "") -> list[Problem]:
    """Why the processes that Ray starts for a run could not compute on its device."""
    device, resources = config.compute.device, config.resources
    if device in ("mps", "xla") and resources.workers > 1:
        message = f"is {device!r}, expected auto, cpu or cuda: resources.workers is {resources.workers}"
        return [Problem(key=f"{prefix}compute.device", message=f"{message}, and on {device} there is one worker")]
    if device == "cuda" and not resources.gpus:
        message = "is 0.0, expected more: compute.device is 'cuda', and Ray gives a process the GPUs that it asks for"
        return [Problem(key=f"{prefix}resources.gpus", message=message)]
    return []


def preset_names() -> list[str]:
    """The presets inside the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _presets().iterdir() if entry.name.endswith(".yaml"))


def read_run(preset_or_file: str) -> Document:
    """The document of a preset (a bare name) or of a YAML file. Raises `ConfigError` if there is neither."""
    if preset_or_file in preset_names():
        with resources.as_file(_presets() / f"{preset_or_file}.yaml") as path:
            return read_document(path)
    if not Path(preset_or_file).exists():
        meant = hint(preset_or_file, preset_names()) or hint_of_path(Path(preset_or_file))
        message = f"neither a file nor a preset{meant} (presets: {', '.join(preset_names())})"
        raise ConfigError([Problem(key=preset_or_file, message=message)])
    return read_document(Path(preset_or_file))


def known_keys(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted keys that a schema takes."""
    keys = []
    for name, info in schema.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += known_keys(info.annotation, f"{prefix}{name}.")
    return keys


def problems_of(error: ValidationError, keys: Iterable[str], prefix: str = "") -> list[Problem]:
    """pydantic's errors as problems that name key, value and what was expected; unknown keys with the nearest known."""
    problems: dict[tuple[str, str], Problem] = {}
    for item in error.errors():
        # A union reports its branches as further parts of the path; the key ends where the configuration's keys do.
        parts = [part for part in item["loc"] if isinstance(part, str | int)]
        key = ".".join(map(str, parts))
        while key not in keys and item["type"] != "extra_forbidden" and "." in key:
            key = key.rpartition(".")[0]
        if item["type"] == "extra_forbidden":
            message = f"unknown key{suggestion(nearest_key(key, keys), f'{prefix}{{}}')}"
        elif item["type"] == "missing":
            message = "is required"
        else:
            message = f"is {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
        problems.setdefault((key, message), Problem(key=prefix + key, message=message))
    return list(problems.values())


def nearest_key(key: str, keys: Iterable[str]) -> str | None:
    """The known key that `key` was most probably meant to be: the first with the same last part, or the nearest."""
    keys = list(keys)
    ending = [known for known in keys if known.rpartition(".")[2] == key.rpartition(".")[2]]
    return ending[0] if ending else nearest(key, keys)


def located(problem: Problem, document: Document) -> Problem:
    """The problem with the file and line it stands on."""
    source, line = document.place(problem.key)
    return Problem(key=problem.key, message=problem.message, source=source, line=line)


@functools.cache
def _schema(**names: str) -> type[RunConfig]:
    """The configuration whose sections are called `names`."""
    sections: dict[str, Any] = {section: (component_model(section, name), ...) for section, name in names.items()}
    return create_model("RunConfig", __base__=RunConfig, **sections)


def _presets() -> Any:
    return resources.files("aln") / "presets"


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """All settings of plain data under dotted keys."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
