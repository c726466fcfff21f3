"""The files that come along: search spaces, sweeps, and studies, which say `stages`."""

from __future__ import annotations

from pathlib import Path

from aln.config import read_document

REPOSITORY = Path(__file__).parent.parent
SPACES = sorted((REPOSITORY / "search_spaces").glob("*.yaml"))
_OF_SWEEPS = sorted((REPOSITORY / "sweeps").rglob("*.yaml"))
STUDIES = [path for path in _OF_SWEEPS if "stages" in read_document(path).content]
SWEEPS = [path for path in _OF_SWEEPS if path not in STUDIES]
