"""The exceptions of `aln`: everything a caller may want to catch is an `AlnError`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class AlnError(Exception):
    """Base of all errors that `aln` raises on purpose."""


class RuleError(AlnError, ValueError):
    """A learning rule was given a coefficient or an option that it cannot use."""


class RegistryError(AlnError, LookupError):
    """A name is unknown to a registry, or was registered twice."""


class DataError(AlnError):
    """A data set cannot be read, or is not what its loader expects."""


class CheckpointError(AlnError):
    """A checkpoint cannot be read, or does not belong to this run."""


class StorageError(AlnError):
    """A folder, or an object store, or a file there, cannot be used: which one, what failed, and why, in one line."""

    def __init__(self, address: str, failed: str, reason: str) -> None:
        super().__init__(address, failed, reason)  # all three: an exception travels between processes by its arguments
        self.address, self.failed, self.reason = address, failed, reason

    def __str__(self) -> str:
        return f"{self.address} {self.failed}: {self.reason}"


class MissingFileError(StorageError):
    """A file is not there."""


class ClusterError(AlnError):
    """Ray cannot be used, or workers on it cannot train."""


class SweepError(AlnError):
    """A sweep cannot start."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a document: where it stands, what was found, what was expected."""

    key: str
    message: str
    source: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}: " if self.line else f"{self.source}: " if self.source else ""
        return f"{place}{self.key}: {self.message}" if self.key else f"{place}{self.message}"


class ConfigError(AlnError, ValueError):
    """A configuration is wrong. `problems` holds every error found, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[Sequence[Problem]]]:
        """Travels between processes with its problems; by default only the text would, in their place."""
        return type(self), (self.problems,)
