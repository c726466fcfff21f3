"""What was probably meant: the known name that is nearest to one that is unknown."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was most probably meant to be, or None."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def hint(word: str, known: Iterable[str], form: str = "{}") -> str:
    """The end of a message about an unknown word: `; did you mean 'X'?`, or nothing. `form` is that of X."""
    return suggestion(nearest(word, known), form)


def suggestion(found: object | None, form: str = "{}") -> str:
    """The end of a message about something unknown, if it is known what was probably meant."""
    return "" if found is None else f"; did you mean '{form.format(found)}'?"


def hint_of_path(path: Path) -> str:
    """The same for a file or a folder that is not there: what has nearly its name, part by part."""
    found = _existing(path)
    return suggestion(None if found == path else found)


def _existing(path: Path) -> Path | None:
    if path.exists() or path == path.parent:
        return path
    if (folder := _existing(path.parent)) is None or not folder.is_dir():
        return None
    name = nearest(path.name, sorted(entry.name for entry in folder.iterdir()))
    return None if name is None else folder / name


def hint_of_module(module: str, form: str = "{}") -> str:
    """The same for a module that is not there: one of its package, which is imported, or one that is on the path."""
    package, dot, name = module.rpartition(".")
    places = getattr(importlib.import_module(package), "__path__", []) if package else None
    return hint(name, sorted(entry.name for entry in pkgutil.iter_modules(places)), form.format(f"{package}{dot}{{}}"))
