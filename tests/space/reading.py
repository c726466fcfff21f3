"""Reads search spaces out of YAML texts."""

from __future__ import annotations

import pytest

from aln.config import parse_document
from aln.errors import ConfigError
from aln.space import SearchSpace, parse_space


def read(text: str, run: dict | None = None) -> SearchSpace:
    return parse_space(parse_document(text, "space.yaml"), run or {})


def problems(text: str, run: dict | None = None) -> list[str]:
    with pytest.raises(ConfigError, match=r"^space\.yaml") as caught:
        read(text, run)
    return [str(problem) for problem in caught.value.problems]
