"""One registry for everything that a configuration names: rules, models, data sets, schedules."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from aln.errors import RegistryError
from aln.hints import hint, hint_of_module

T = TypeVar("T")


def _told(error: Exception) -> str:
    """What went wrong in a user's module, with the line of the module on which it did."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames[1:] else ""
    advice = "; write @dataclass(frozen=True, kw_only=True) above each rule" if "frozen dataclass" in str(error) else ""
    return f"{error}{place}{advice}"


class Registry(Generic[T]):
    """Names to objects. A second registration of a name raises; an unknown name lists the known ones.

    Besides the registered names, `get` accepts the names that installed packages declare under the entry-point group
    `group`, and `module:attribute`, which imports the user's own object. Both must be a subclass of `base`, or
    anything that can be called where there is no base.
    """

    def __init__(self, kind: str, base: type | None = None, group: str | None = None) -> None:
        self.kind = kind
        self._base = base
        self._group = group
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that stores the object under `name`. Raises `RegistryError` if the name is taken."""

        def store(entry: T) -> T:
            if name in self._entries:
                raise RegistryError(f"{self.kind} '{name}' is registered already")
            self._entries[name] = entry
            return entry

        return store

    def get(self, name: str) -> T:
        """The object called `name`, or the attribute at `module:attribute` or `module.attribute`.

        Raises `RegistryError`.
        """
        if name in self._entries:
            return self._entries[name]
        for entry_point in entry_points(group=self._group, name=name) if self._group else ():
            return self._imported(entry_point.module, entry_point.attr)
        if ":" in name:
            return self._imported(*name.split(":", 1))
        if "." in name:
            module, _, attribute = name.rpartition(".")
            return self._imported(module, attribute)
        plugins = entry_points(group=self._group).names if self._group else ()
        known = sorted({*self._entries, *plugins})
        raise RegistryError(f"unknown {self.kind} '{name}'{hint(name, known)} (known: {', '.join(known)})")

    def _imported(self, module: str, attribute: str) -> T:
        path = f"{module}:{attribute}"
        try:
            home = importlib.import_module(module)
        except ModuleNotFoundError as error:
            name = error.name or ""  # the module's, that of a package it is in, or that of one which it asks for
            inside = f"{module}.".startswith(f"{name}.")
            meant = hint_of_module(name, f"{{}}{module.removeprefix(name)}:{attribute}") if inside else ""
            raise RegistryError(f"{self.kind} '{path}' cannot be imported: {_told(error)}{meant}") from error
        except Exception as error:  # the user's own module may raise anything
            raise RegistryError(f"{self.kind} '{path}' cannot be imported: {_told(error)}") from error
        try:
            entry: T = getattr(home, attribute)
        except AttributeError as error:
            meant = hint(attribute, vars(home), f"{module}:{{}}")
            raise RegistryError(f"{self.kind} '{path}' cannot be imported: {error}{meant}") from error
        if self._base is None:
            if not callable(entry):
                raise RegistryError(f"{self.kind} '{path}' cannot be called")
        elif not (inspect.isclass(entry) and issubclass(entry, self._base)):
            raise RegistryError(f"{self.kind} '{path}' is no subclass of {self._base.__name__}")
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def items(self) -> Iterable[tuple[str, T]]:
        """Pairs of name and object, in the order of registration."""
        return self._entries.items()
