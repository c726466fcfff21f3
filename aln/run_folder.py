"""The folder of a run: what describes it, its checkpoints, and what MLflow has not heard yet of it."""

from __future__ import annotations

from pathlib import Path

from aln.checkpoint_folder import CHECKPOINTS, CheckpointFolder
from aln.config import Document, RunConfig, parse_document
from aln.errors import CheckpointError, MissingFileError
from aln.hints import hint
from aln.preflight import make_folder
from aln.storage import open_storage, places

DESCRIPTION = "config.yaml"  # the file's name


class RunFolder:
    """The folder called `name` under a folder or a URL. Raises `StorageError` if the URL is none.

    Attributes:
        root: its absolute path, or its URL.
        local: where files go that must lie on this machine: the folder itself, or one in `results` beside a URL.
        checkpoints: path or URL of the checkpoints in it.
    """

    def __init__(self, storage: str, name: str) -> None:
        self.local, remote = places(storage, name)
        self.root = remote or str(self.local)
        self.checkpoints = f"{self.root}/{CHECKPOINTS}"
        self._storage = open_storage(self.root)

    def exists(self) -> bool:
        """Whether there is such a run, or a folder of that name."""
        return bool(self._storage.files()) if "://" in self.root else Path(self.root).exists()

    def begin(self, config: RunConfig) -> None:
        """Makes the folder, which must not be there yet, with the run's description. Raises `AlnError` if it cannot."""
        make_folder(self.root)
        self._storage.write(DESCRIPTION, config.to_yaml().encode())

    def description(self) -> Document:
        """How the run was described when it began. Raises `CheckpointError` if there is no such run."""
        address = self._storage.address(DESCRIPTION)
        try:
            return parse_document(self._storage.read(DESCRIPTION).decode(), source=address)
        except MissingFileError:  # checkpoints alone, brought here from elsewhere
            loaded = CheckpointFolder(self.checkpoints).newest()
        if loaded is None:
            folder, _, name = self.root.rpartition("/")
            meant = hint(name, open_storage(folder).listing().folders)
            raise CheckpointError(f"{self.root}: no such run, and no such checkpoint{meant}")
        return Document(loaded.content["description"], source=loaded.address)
