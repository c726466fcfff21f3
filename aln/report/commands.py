"""The command that trains a point of a sweep again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from aln.config import parse_value, preset_names, read_run

_ANY_PRESET = "backprop"  # whose rule the settings replace


def train_command(content: Mapping[str, Any]) -> str:
    """`python -m aln.train PRESET --set …` for a run as its configuration says it, whose rule has a `name`."""
    rule = content["rule"]["name"]
    preset = rule if rule in preset_names() and read_run(rule).content == {"rule": rule} else _ANY_PRESET
    settings = [
        f"{key}={_written(value)}"
        for key, value in _settings({"rule": content["rule"], **content})
        if (key, preset) != ("rule.name", rule)
    ]
    return shlex.join(["python", "-m", "aln.train", preset, *(["--set", *settings] if settings else [])])


def _settings(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The content under dotted keys: a section's name before its options, which it would drop."""
    for key, value in sorted(content.items(), key=lambda item: item[0] != "name" if prefix else False):
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _written(value: Any) -> str:
    """The value as `--set` reads it."""
    return value if isinstance(value, str) and parse_value(value) == value else json.dumps(value, ensure_ascii=False)
