"""A cache folder of the tests' own, and data sets in an object store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aln.storage import open_storage
from stores import Store


@pytest.fixture(autouse=True)
def kept(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where mirrors and indexes go."""
    folder = tmp_path_factory.mktemp("kept")
    monkeypatch.setenv("ALN_CACHE", str(folder))
    return folder


@pytest.fixture
def upload(s3: Store) -> Callable[[Path], str]:
    """Puts a folder into the bucket; returns its URL."""

    def put(folder: Path) -> str:
        url = f"{s3.url}/{folder.name}"
        store = open_storage(url)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                store.write(str(path.relative_to(folder)), path.read_bytes())
        return url

    return put
