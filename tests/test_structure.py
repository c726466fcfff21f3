"""The plan of the house: what imports what, and what a bare import brings along."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "aln"

# From the core upwards: a module imports only from rows above its own, and from its own package.
ROWS = [
    ["errors", "hints"],
    ["registry", "memory", "threads", "maps", "seeds", "devices", "storage", "tensorflow_checkpoint"],
    ["signals", "preflight", "fingerprint"],
    ["moments"],
    ["primitives"],
    ["rules"],
    ["autograd"],
    ["layers"],
    ["angles", "alignment", "conversion"],
    ["models", "data", "optim"],
    ["testing", "world", "batch_norm"],
    ["checkpoint"],
    ["checkpoint_folder", "engine"],
    ["config"],
    ["space"],
    ["build", "run_folder", "sweep_folder"],
    ["job"],
    ["tracking", "timing", "records", "encoding", "command"],
    ["report", "cluster", "mailbox", "workers"],
    ["worker_group"],
    ["search", "distributed"],
    ["progress", "sweep_summary"],
    ["train", "sweep", "validate", "import_tf", "study"],
]
ROW = {name: row for row, names in enumerate(ROWS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "aln":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aln."):
            rooms.add(str(node.module).split(".")[1])
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_rows_above_its_own(path: Path) -> None:
    mine = room(path)
    below = {other for other in imported_rooms(path) if other != mine and ROW[other] >= ROW[mine]}
    assert not below


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_stays_under_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 400


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ("aln.job, aln.run_folder", ["ray", "mlflow", "optuna", "matplotlib"]),
        (
            "aln.engine, aln.models, aln.angles, aln.checkpoint_folder",
            ["ray", "mlflow", "optuna", "pydantic", "yaml", "pyarrow"],
        ),
        ("aln.sweep, aln.train", ["ray", "mlflow", "optuna"]),
        ("aln.validate, aln.import_tf", ["ray", "mlflow", "optuna", "matplotlib", "tensorflow"]),
    ],
)
def test_science_imports_without_orchestration(modules: str, forbidden: list[str]) -> None:
    script = f"import sys, {modules}; print([name for name in {forbidden} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
