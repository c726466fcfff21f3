"""The folder of a sweep: what describes it, so that it can be resumed, and who has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from aln.config import Document, SweepConfig, dump, read_document
from aln.errors import ConfigError, Problem, SweepError
from aln.fingerprint import differences, fingerprint
from aln.preflight import make_folder
from aln.space import SearchSpace

SWEEP, SPACE = "sweep.yaml", "space.yaml"  # the files' names
_CODE, _LOCK = "code.json", ".lock"


class SweepFolder:
    """The folder called `name` under `storage`, a folder or a URL.

    Attributes:
        path: where what describes the sweep is, and what came of it; in `results` if `storage` is a URL.
        remote: URL of what trials write; None if that is in the folder, too.
    """

    def __init__(self, storage: str, name: str) -> None:
        remote = "://" in storage
        self.path = Path("results" if remote else storage).resolve() / name
        self.remote = f"{storage.rstrip('/')}/{name}" if remote else None

    def begin(self, sweep: SweepConfig, space: SearchSpace) -> None:
        """Makes the folder, which must not be there yet, and describes the sweep. Raises `AlnError` if it cannot."""
        make_folder(self.path)
        if self.remote is not None:
            make_folder(self.remote)
        self._write(_CODE, json.dumps(fingerprint(), indent=1))
        self._write(SPACE, dump(space.plain()))
        self.describe(sweep)

    def describe(self, sweep: SweepConfig) -> None:
        """Describes how the sweep searches from now on."""
        self._write(SWEEP, sweep.to_yaml())

    def documents(self) -> tuple[Document, Document]:
        """How sweep and search space were described. Raises `ConfigError` if there is no such sweep."""
        missing = [name for name in (SWEEP, SPACE) if not (self.path / name).exists()]
        if missing:
            message = f"is '{self.path.name}', but {self.path} holds no sweep ({', '.join(missing)} missing)"
            raise ConfigError([Problem(key="--resume", message=message)])
        return read_document(self.path / SWEEP), read_document(self.path / SPACE)

    def changed_code(self) -> list[str]:
        """What of the code differs from when the sweep began."""
        return differences(json.loads((self.path / _CODE).read_text(encoding="utf-8")), fingerprint())

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Keeps every other process from running the sweep meanwhile. Raises `SweepError` if one has it."""
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SweepError(f"{self.path.name} is running already: another process has {self.path}") from None
        try:
            yield
        finally:
            lock.release()

    def _write(self, name: str, text: str) -> None:
        """Writes a file whole or not at all."""
        scratch = self.path / f".{name}.new"
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(self.path / name)
