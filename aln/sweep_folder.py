"""The folder of a sweep: what describes it, so that it can be resumed, and who has it."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from aln.config import Document, SweepConfig, dump, read_document
from aln.errors import ConfigError, Problem, StorageError, SweepError
from aln.fingerprint import differences, fingerprint
from aln.hints import hint
from aln.preflight import make_folder
from aln.space import SearchSpace
from aln.storage import Storage, open_storage, places

SWEEP, SPACE, STUDY = "sweep.yaml", "space.yaml", "study.log"  # the files' names
_CODE, _LOCK = "code.json", ".lock"
# What a sweep can be resumed from, the study last: where it is, the others are.
_COPIED = (SWEEP, SPACE, _CODE, STUDY)
_SECONDS_BETWEEN_COPIES = 60.0


class SweepFolder:
    """The folder called `name` under `storage`, a folder or a URL.

    Attributes:
        path: where what describes the sweep is, and what came of it; in `results` if `storage` is a URL.
        remote: URL of what trials write; None if that is in the folder, too.
    """

    def __init__(self, storage: str, name: str) -> None:
        self.path, self.remote = places(storage, name)
        self._here = open_storage(self.path)

    def exists(self) -> bool:
        """Whether there is such a sweep, or something else of that name, here or at its URL."""
        return self.path.exists() or (self.remote is not None and bool(open_storage(self.remote).files()))

    def begin(self, sweep: SweepConfig, space: SearchSpace) -> None:
        """Makes the folder, which must not be there yet, and describes the sweep. Raises `AlnError` if it cannot."""
        make_folder(self.path)
        if self.remote is not None:
            make_folder(self.remote)
        self._here.write(_CODE, json.dumps(fingerprint(), indent=1).encode())
        self._here.write(SPACE, dump(space.plain()).encode())
        self.describe(sweep)

    def is_described(self) -> bool:
        """Whether there is what a sweep can be resumed from."""
        return (self.path / SWEEP).exists()

    def is_begun(self) -> bool:
        """Whether there is what a sweep can be resumed from, here or at its URL, from where it is brought.

        Raises `ConfigError` if another machine has gone on from what is here.
        """
        self._settle()
        return self.is_described()

    @property
    def resuming(self) -> str:
        """The options of `aln.sweep` that go on with the sweep."""
        storage = str(self.path.parent) if self.remote is None else self.remote.rpartition("/")[0]
        where = "" if storage == str(Path("results").resolve()) else f" --set storage={storage}"
        return f"--resume {self.path.name}{where}"

    def describe(self, sweep: SweepConfig) -> None:
        """Describes how the sweep searches from now on."""
        self._here.write(SWEEP, sweep.to_yaml().encode())

    def documents(self) -> tuple[Document, Document]:
        """How sweep and search space were described. Raises `ConfigError` if there is no such sweep.

        Brings here what only the URL has, because another machine ran the sweep, and refuses what is here if another
        machine has gone on from it.
        """
        self._settle()
        missing = [name for name in (SWEEP, SPACE) if not (self.path / name).exists()]
        if missing:
            meant = hint(self.path.name, self._others())
            message = f"is '{self.path.name}', but {self.path} holds no sweep ({', '.join(missing)} missing){meant}"
            raise ConfigError([Problem(key="--resume", message=message)])
        return read_document(self.path / SWEEP), read_document(self.path / SPACE)

    def _settle(self) -> None:
        """Brings here what only the URL has. Raises `ConfigError` if another machine has gone on from what is here."""
        if self.remote is not None and not self.path.exists():
            self._fetch(self.remote)
        elif self.remote is not None and not self._goes_on(self.remote):
            message = f"is '{self.path.name}', but another machine has gone on with it: move {self.path} away first"
            raise ConfigError([Problem(key="--resume", message=message)])

    def _others(self) -> list[str]:
        """The names of the sweeps beside this one."""
        beside = open_storage(str(self.path.parent) if self.remote is None else self.remote.rpartition("/")[0])
        return [name for name in beside.listing().folders if beside.exists(f"{name}/{SWEEP}")]

    def changed_code(self) -> list[str]:
        """What of the code differs from when the sweep began."""
        return differences(json.loads((self.path / _CODE).read_text(encoding="utf-8")), fingerprint())

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Keeps other processes on this folder from running the sweep meanwhile. Raises `SweepError` if one does."""
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SweepError(f"{self.path.name} is running already: another process has {self.path}") from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def copied(self, settled: Callable[[], bool], tell: Callable[[str], None]) -> Iterator[None]:
        """Copies what the sweep can be resumed from to its URL, if it has one, every minute and at the end.

        Args:
            settled: whether MLflow has heard of all that the study holds, for which it may wait some seconds. Only then
                a study is copied: what is resumed from a copy goes on behind what MLflow has, never before.
            tell: hears why copying fails, once each time it begins to.
        """
        if self.remote is None:
            yield
            return
        copies = _Copies(self.path, open_storage(self.remote), settled, tell)
        over = threading.Event()

        def copy_now_and_then() -> None:
            pause = _SECONDS_BETWEEN_COPIES
            while not over.wait(pause):
                began = time.monotonic()
                copies.make()
                # A long study is copied less often: it shall not take more than a twentieth of the time.
                pause = max(_SECONDS_BETWEEN_COPIES, 20 * (time.monotonic() - began))

        thread = threading.Thread(target=copy_now_and_then, name="sweep-copies", daemon=True)
        copies.make()
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            copies.make()

    def _goes_on(self, remote: str) -> bool:
        """Whether the study here begins with what the copy holds; both are only ever added to."""
        storage, here = open_storage(remote), self.path / STUDY
        if not storage.exists(STUDY):
            return True
        copy = storage.read(STUDY)
        whole = copy[: copy.rfind(b"\n") + 1]  # it may end within a line
        return here.exists() and here.read_bytes().startswith(whole)

    def _fetch(self, remote: str) -> None:
        """Brings the copies here. What there is of the sweep is there wholly, or the folder is not."""
        storage = open_storage(remote)
        found = {name: storage.read(name) for name in _COPIED if storage.exists(name)}
        if STUDY not in found:
            return
        scratch = self.path.with_name(f".{self.path.name}.new")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for name, content in found.items():
            (scratch / name).write_bytes(content)
        scratch.rename(self.path)


class _Copies:
    """The files of a folder as a storage has them."""

    def __init__(
        self, folder: Path, storage: Storage, settled: Callable[[], bool], tell: Callable[[str], None]
    ) -> None:
        self._folder, self._storage, self._settled, self._tell = folder, storage, settled, tell
        self._copied: dict[str, bytes] = {}
        self._failing = False

    def make(self) -> None:
        """Copies what has changed. A store that does not answer is asked again next time."""
        contents = {name: (self._folder / name).read_bytes() for name in _COPIED if (self._folder / name).exists()}
        try:
            if not self._settled():
                contents.pop(STUDY, None)
            for name, content in contents.items():
                digest = hashlib.sha256(content).digest()
                if self._copied.get(name) != digest:
                    self._storage.write(name, content)
                    self._copied[name] = digest
            self._failing = False
        except StorageError as error:
            if not self._failing:
                self._tell(f"The sweep goes on, but can be resumed on this machine alone: {error}")
            self._failing = True
