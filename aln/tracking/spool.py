"""What is still to be written to MLflow: a queue on disk that survives the death of its process and of the server."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aln.errors import StorageError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (run TEXT PRIMARY KEY, identity TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, kind TEXT NOT NULL, content TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS refused (
    number INTEGER PRIMARY KEY, run TEXT NOT NULL, kind TEXT NOT NULL, content TEXT NOT NULL, reason TEXT NOT NULL
);
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing to be written: `kind` says what the writer does with `content` on the run called `run`."""

    number: int
    run: str
    kind: str
    content: Any


class Spool:
    """Entries in the order in which they came, each there until it is removed. May be used from several threads.

    An entry is on disk when `add` returns. Without a path it lives in memory and ends with the process. Every method
    raises `StorageError` naming the file if it cannot be used: on a full disk, nothing can be removed either.
    """

    def __init__(self, path: Path | None) -> None:
        self._address = "the queue for MLflow" if path is None else str(path)
        self._lock = threading.Lock()
        with self._alone("cannot be opened"):
            self._database = sqlite3.connect(
                path or ":memory:", check_same_thread=False, isolation_level=None, timeout=60.0
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.executescript(_SCHEMA)

    @contextmanager
    def _alone(self, failed: str) -> Iterator[None]:
        """Keeps other threads out, and tells what fails."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise StorageError(self._address, failed, str(error)) from error

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """All that is done meanwhile, or nothing."""
        with self._alone("cannot be written"):
            self._database.execute("BEGIN")
            try:
                yield
                self._database.execute("COMMIT")
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")

    def name(self, run: str, identity: Mapping[str, Any]) -> None:
        """Says by what a run is found or made; the first word counts."""
        with self._changing():
            self._database.execute("INSERT OR IGNORE INTO runs VALUES (?, ?)", (run, json.dumps(identity)))

    def identity(self, run: str) -> dict[str, Any]:
        """By what the run is found or made."""
        with self._alone("cannot be read"):
            (text,) = self._database.execute("SELECT identity FROM runs WHERE run = ?", (run,)).fetchone()
        found: dict[str, Any] = json.loads(text)
        return found

    def add(self, run: str, kind: str, content: Any) -> None:
        """Appends an entry; `content` is what JSON can hold."""
        with self._changing():
            self._database.execute(
                "INSERT INTO entries (run, kind, content) VALUES (?, ?, ?)", (run, kind, json.dumps(content))
            )

    def head(self, limit: int) -> list[Entry]:
        """The oldest entries."""
        with self._alone("cannot be read"):
            rows = self._database.execute("SELECT * FROM entries ORDER BY number LIMIT ?", (limit,)).fetchall()
        return [Entry(number=n, run=run, kind=kind, content=json.loads(text)) for n, run, kind, text in rows]

    def remove(self, entries: Iterable[Entry]) -> None:
        """Takes out what has been written."""
        with self._changing():
            self._database.executemany("DELETE FROM entries WHERE number = ?", [(e.number,) for e in entries])

    def refuse(self, entries: Sequence[Entry], reason: str) -> None:
        """Lays aside what cannot be written, with the reason."""
        with self._changing():
            for e in entries:
                self._database.execute(
                    "INSERT INTO refused VALUES (?, ?, ?, ?, ?)",
                    (e.number, e.run, e.kind, json.dumps(e.content), reason),
                )
                self._database.execute("DELETE FROM entries WHERE number = ?", (e.number,))

    def refused(self) -> list[str]:
        """Why entries were laid aside."""
        with self._alone("cannot be read"):
            return [reason for (reason,) in self._database.execute("SELECT reason FROM refused ORDER BY number")]

    def __len__(self) -> int:
        with self._alone("cannot be read"):
            count: int = self._database.execute("SELECT COUNT(*) FROM entries").fetchone()[0]
        return count

    def close(self) -> None:
        """Lets go of the file."""
        with self._alone("cannot be read"):
            self._database.close()
