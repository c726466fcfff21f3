"""The folder of a study: what it is resumed from, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path

from aln.config import Document, dump, read_document
from aln.errors import ConfigError, Problem
from aln.preflight import make_folder
from aln.storage import open_storage, places
from aln.study.plan import StudyPlan

STUDY = "study.yaml"
_ENDED = "ended.json"


class StudyFolder:
    """The folder called `name` under `storage`, a folder or a URL; those of its sweeps lie beside it.

    Attributes:
        path: where everything is written. At a URL there is a copy of what the study is resumed from.
    """

    def __init__(self, storage: str, name: str) -> None:
        self.storage, self.name = storage, name
        self.path, self._remote = places(storage, name)
        self._here = open_storage(self.path)

    def exists(self) -> bool:
        """Whether a study, or something else, has the name, here or at the URL."""
        return self.path.exists() or (self._remote is not None and bool(open_storage(self._remote).files()))

    def begin(self, study: StudyPlan) -> None:
        """Makes the folder and describes the study. Raises `AlnError` if it cannot be written."""
        content = dump(study.content).encode()
        make_folder(self.path)
        if self._remote is not None:
            make_folder(self._remote)
            open_storage(self._remote).write(STUDY, content)
        self._here.write(STUDY, content)

    def description(self) -> Document:
        """The study as it was described, here or at the URL. Raises `ConfigError` if there is none."""
        if self._remote is not None and not self.path.exists():
            there = open_storage(self._remote)
            if there.exists(STUDY):
                make_folder(self.path)
                self._here.write(STUDY, there.read(STUDY))
        if not (self.path / STUDY).exists():
            message = f"is '{self.name}', but {self.path} holds no study ({STUDY} missing)"
            raise ConfigError([Problem(key="--resume", message=message)])
        return read_document(self.path / STUDY)

    @property
    def resuming(self) -> str:
        """The options of `aln.study` that go on with the study."""
        where = "" if Path(self.storage).resolve() == Path("results").resolve() else f" --storage {self.storage}"
        return f"--resume {self.name}{where}"

    def ended(self) -> list[str]:
        """Names of the sweeps that were seen to end, and need not be looked at by Ray again."""
        return json.loads(self._here.read(_ENDED)) if self._here.exists(_ENDED) else []

    def note_ended(self, sweep: str) -> None:
        """Keeps that a sweep has ended."""
        self._here.write(_ENDED, json.dumps([*self.ended(), sweep], indent=1).encode())
