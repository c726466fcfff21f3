"""Where files are kept: local folders and object stores behind one small interface. Imports pyarrow only for URLs."""

from __future__ import annotations

import re
from pathlib import Path

from aln.errors import MissingFileError, StorageError
from aln.storage.interface import Listing, RangeReader, Storage, StoredFile
from aln.storage.local import LocalFolder
from aln.storage.object_store import ObjectStore

__all__ = [
    "Listing",
    "MissingFileError",
    "RangeReader",
    "Storage",
    "StorageError",
    "StoredFile",
    "open_storage",
    "places",
    "split_address",
]

_EXPECTED = "expected a folder, s3://bucket/folder or gs://bucket/folder"


def open_storage(root: str | Path) -> Storage:
    """The store at a folder or a URL; asks nothing of it yet. Raises `StorageError` if it is no such place."""
    text = str(root)
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)", text)
    if match is None or (match[1] not in ("s3", "gs") and match[2] == "/"):
        return LocalFolder(text)
    if match[2] == "/":  # a URL that passed through a `Path` has lost a slash, and would be a folder called s3:
        raise StorageError(text, "is no place for files", f"a slash is missing after the colon; {_EXPECTED}")
    if match[1] not in ("s3", "gs"):
        raise StorageError(f"{match[1]}://…", "is no place for files", _EXPECTED)
    return ObjectStore(text)


def places(storage: str, name: str) -> tuple[Path, str | None]:
    """Where the folder `name` under a folder or a URL is on this machine (in `results` for a URL), and its URL."""
    if "://" in storage:
        return Path("results").resolve() / name, f"{storage.rstrip('/')}/{name}"
    return Path(storage).resolve() / name, None


def split_address(path: str | Path) -> tuple[Storage, str]:
    """The store and the name of a single file."""
    folder, slash, name = str(path).rpartition("/")
    return open_storage((folder or "/") if slash else "."), name
