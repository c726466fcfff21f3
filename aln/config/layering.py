"""What lies under a run's document before it is checked: the recipe of its data set, and the keys that it asks for.

recipe: imagenet        # null: none. By default the one that is called like the data set, if there is one
required:
  keys: [rule.alpha]
  because: the published value is not known to us
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any

from aln.config.documents import parse_document
from aln.errors import Problem
from aln.hints import hint

Content = dict[str, Any]


def layered(content: Mapping[str, Any], prefix: str = "") -> tuple[Content, list[Problem]]:
    """A run's content with its recipe under it, and every problem with `recipe` and `required`."""
    content = dict(content)
    problems = _missing(content.pop("required", None), content, prefix)
    data = _section(content.get("data"))
    if "root" in data and "name" not in data:
        data = content["data"] = {"name": "imagenet", **data}  # which lies in a folder, as the default does not
    named = "recipe" in content
    recipe = content.pop("recipe", data.get("name"))
    if recipe in recipe_names():
        content = _over(_recipe(recipe), content)
    elif named and recipe is not None:
        unknown = f"unknown recipe {recipe!r}{hint(str(recipe), recipe_names())}"
        message = f"{unknown} (known: {', '.join(recipe_names())})"
        problems.append(Problem(key=f"{prefix}recipe", message=message))
    return content, problems


@functools.cache
def recipe_names() -> tuple[str, ...]:
    """The recipes inside the package."""
    return tuple(sorted(e.name.removesuffix(".yaml") for e in _recipes().iterdir() if e.name.endswith(".yaml")))


def _missing(required: Any, content: Mapping[str, Any], prefix: str) -> list[Problem]:
    """A problem for each key that `required` names and the content does not have."""
    if required is None:
        return []
    said = required if isinstance(required, Mapping) else {}
    keys, because = said.get("keys"), said.get("because")
    if not isinstance(keys, list) or not isinstance(because, str) or len(said) > 2:
        message = f"is {required!r}, expected {{keys: [dotted keys], because: why}}"
        return [Problem(key=f"{prefix}required", message=message)]
    return [
        Problem(key=prefix + str(key), message=f"is required: {because}; set {prefix}{key}=…")
        for key in keys
        if not _has(content, str(key).split("."))
    ]


def _has(content: Any, path: list[str]) -> bool:
    if not path:
        return True
    if isinstance(content, str):
        return path == ["name"]
    return isinstance(content, Mapping) and path[0] in content and _has(content[path[0]], path[1:])


def _over(recipe: Content, content: Content) -> Content:
    """The content over the recipe. A section of another name than the recipe's stands alone."""
    merged = {**recipe, **content}
    for key, under in recipe.items():
        over = content.get(key, {})
        if not isinstance(under, dict) or not isinstance(over, Mapping | str):
            continue
        over = _section(over)
        same = over.get("name", under.get("name")) == under.get("name")
        merged[key] = {**under, **over} if same else content[key]
    return merged


def _section(value: Any) -> Content:
    """A named section as a mapping; an empty one for what is none."""
    return {"name": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else {}


@functools.cache
def _recipe(name: str) -> Content:
    return parse_document((_recipes() / f"{name}.yaml").read_text(encoding="utf-8"), name).content


def _recipes() -> Any:
    return resources.files("aln") / "recipes"
