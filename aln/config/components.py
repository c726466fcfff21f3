"""Sections of a configuration that name something registered: `{name: information, alpha: 1e-3}`.

What options a section takes is read off the signature of what it names, so that a rule, a model or a data set
states its options once, in its own code.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from aln.data import DATA
from aln.models import MODELS
from aln.optim import OPTIMIZERS, SCHEDULES
from aln.registry import Registry
from aln.rules import RULES

REGISTRIES: dict[str, Registry[Any]] = {
    "rule": RULES,
    "model": MODELS,
    "data": DATA,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "alignment_optimizer": OPTIMIZERS,
    "alignment_schedule": SCHEDULES,
}


class Component(BaseModel):
    """A named thing and its options; subclasses made by `component_model` have one field per option."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str

    def options(self) -> dict[str, Any]:
        """The options, as the keyword arguments of what the section names."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "name"}

    def make(self, section: str, *supplied: Any) -> Any:
        """Calls what the section names with its options, after the arguments that only `build` knows."""
        return REGISTRIES[section].get(self.name)(*supplied, **self.options())


@functools.cache
def component_model(section: str, name: str) -> type[Component]:
    """The schema of `section` when it is called `name`. Raises `RegistryError` for an unknown name."""
    target: Callable[..., Any] = REGISTRIES[section].get(name)
    hints = typing.get_type_hints(target)  # of a dataclass: its fields, inherited ones included
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(target).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue  # what `build` supplies: the data's shape and number of classes
        annotation = hints.get(parameter.name, Any)
        default = ... if parameter.default is parameter.empty else parameter.default
        # Strict, so that `alpha: true` is no 1.0; sequences stay lax, since YAML has lists where defaults are tuples.
        strict = annotation is not Any and typing.get_origin(annotation) is None
        fields[parameter.name] = (annotation, Field(default, strict=strict or None))
    return create_model(f"{section}_{name}", __base__=Component, **fields)
