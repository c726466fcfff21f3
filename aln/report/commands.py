"""The command that trains a point of a sweep again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from aln.config import parse_value, preset_names, read_run, settings_of

_ANY_PRESET = "backprop"  # whose rule the settings replace


def train_command(content: Mapping[str, Any]) -> str:
    """`python -m aln.train PRESET --set …` for a run as its configuration says it, whose rule has a `name`."""
    rule = content["rule"]["name"]
    preset = rule if rule in preset_names() and read_run(rule).content == {"rule": rule} else _ANY_PRESET
    settings = [
        f"{key}={_written(value)}"
        for key, value in settings_of({"rule": content["rule"], **content})
        if (key, preset) != ("rule.name", rule)
    ]
    return shlex.join(["python", "-m", "aln.train", preset, *(["--set", *settings] if settings else [])])


def _written(value: Any) -> str:
    """The value as `--set` reads it."""
    return value if isinstance(value, str) and parse_value(value) == value else json.dumps(value, ensure_ascii=False)
