"""Reading YAML: YAML 1.2's numbers, no duplicate keys, and the line on which each key stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aln.errors import ConfigError, Problem
from aln.hints import hint_of_path

Path_ = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-5` as the number it is (PyYAML follows YAML 1.1, where it needs a dot and a sign)."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes every text which `_Loader` would read as a number."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


@dataclass(frozen=True)
class Document:
    """The content of a YAML mapping, the line (from 1) of each key by path, and the keys that `--set` changed."""

    content: dict[str, Any]
    source: str = ""
    lines: Mapping[Path_, int] = field(default_factory=dict)
    settings: tuple[str, ...] = ()

    def place(self, key: str) -> tuple[str, int | None]:
        """Source and line of a dotted key: `--set` if it was set there."""
        if any(key == setting or key.startswith(f"{setting}.") for setting in self.settings):
            return "--set", None
        line = self.line(key.split("."))
        if line is None and any(setting.startswith(f"{key}.") for setting in self.settings):
            return "--set", None
        return self.source, line

    def line(self, path: Sequence[str | int]) -> int | None:
        """Line of the deepest part of `path` that stands in the document."""
        for length in range(len(path), 0, -1):
            if (found := self.lines.get(tuple(path[:length]))) is not None:
                return found
        return None


def read_document(path: Path) -> Document:
    """Reads a YAML file that holds a mapping. Raises `ConfigError` naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        message = f"there is no such file{hint_of_path(path)}"
        raise ConfigError([Problem(key="", message=message, source=str(path))]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(key="", message=f"cannot be read: {error}", source=str(path))]) from error
    return parse_document(text, str(path))


def parse_document(text: str, source: str = "") -> Document:
    """Parses YAML text that holds a mapping. Raises `ConfigError` for bad syntax or a duplicate key."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a tagged number that is none
        mark = getattr(error, "problem_mark", None)
        message = f"not valid YAML: {getattr(error, 'problem', None) or error}"
        problem = Problem(key="", message=message, source=source, line=mark.line + 1 if mark else None)
        raise ConfigError([problem]) from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        message = f"expected a mapping of keys to values, found {type(content).__name__}"
        raise ConfigError([Problem(key="", message=message, source=source)])
    lines: dict[Path_, int] = {}
    try:
        problems = _walk(node, (), lines, source) if node is not None else []
    except RecursionError:
        problems = [Problem(key="", message="a value contains itself", source=source)]
    if problems:
        raise ConfigError(problems)
    return Document(content, source, lines)


def parse_value(text: str) -> Any:
    """The value of a `key=value` argument, read as YAML: `1e-5` a number, `null` None, `[1, 2]` a list."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError):
        return text


def dump(content: Mapping[str, Any]) -> str:
    """YAML text in the order of the keys."""
    text: str = yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def with_settings(document: Document, settings: Sequence[str]) -> Document:
    """The document with `key.path=value` settings laid over it. Raises `ConfigError` for each malformed one."""
    content = _copy(document.content)
    problems, keys = [], []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(key.split(".")):
            problems.append(Problem(key=setting, message="expected key=value", source="--set"))
            continue
        set_at(content, key, parse_value(text))
        keys.append(key)
    if problems:
        raise ConfigError(problems)
    return Document(content, document.source, document.lines, (*document.settings, *keys))


def settings_of(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys and values by which `set_at` makes the content: a section's name before its options."""
    for key, value in sorted(content.items(), key=lambda item: item[0] != "name"):
        if isinstance(value, Mapping) and value:
            yield from settings_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def set_at(content: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key in nested mappings, in place. A name that stands for a section (`model: mlp`) becomes one.

    Setting a section's `name` to another value drops the options that belonged to the old one.
    """
    *parents, last = key.split(".")
    for parent in parents:
        inner = content.get(parent)
        if not isinstance(inner, dict):
            inner = {} if inner is None else {"name": inner}
            content[parent] = inner
        content = inner
    if parents and last == "name" and content.get("name") != value:
        content.clear()
    content[last] = value


def _copy(content: Any) -> Any:
    return {key: _copy(value) for key, value in content.items()} if isinstance(content, dict) else content


def _walk(node: yaml.Node, path: Path_, lines: dict[Path_, int], source: str) -> list[Problem]:
    """Fills in `lines` and returns a problem for each key that stands twice in one mapping."""
    problems: list[Problem] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            here = (*path, key)
            if key in seen:
                dotted = ".".join(map(str, here))
                message = f"stands twice (first on line {lines[here]})"
                problems.append(Problem(key=dotted, message=message, source=source, line=line))
            seen.add(key)
            lines.setdefault(here, line)
            problems += _walk(value_node, here, lines, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            problems += _walk(item, (*path, index), lines, source)
    return problems
