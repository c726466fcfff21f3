"""Every page for users, typed in from top to bottom: its files are written, its commands and programs run.

Commands are those of the page, in its order and in one folder, with smaller budgets.
"""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from aln.config import parse_document, parse_sweep
from aln.space import parse_space
from aln.study.description import describe_study
from pages import Block, blocks
from stores import Store

REPOSITORY = Path(__file__).parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

THREE_HOSTS = "tests/cluster/test_three_hosts.py"
# Beginnings of commands that need what is not here, and what runs them.
ELSEWHERE = {
    r"make (sweep|test|cluster)": ".ci/run",
    r"\. \.venv/bin/activate": ".ci/run",
    r"mlflow ui": "tests/test_browser.py",
    r"python -m aln\.import_tf": "tests/test_import_tf.py",
    r"ray (up|down|dashboard|job|attach|rsync-down|get-auth-token)|aws |GROUP=|export ": THREE_HOSTS,
    r"docker |kubectl ": "tests/test_kuberay.py",
    r"python -m aln\.sweep .*(\$ALN_STORAGE|/shared/results)": THREE_HOSTS,
}


@pytest.fixture
def reader(workplace: Path, monkeypatch: pytest.MonkeyPatch, ray_head: str, s3: Store) -> Path:
    """A folder with what lies beside the pages, and the bucket that they speak of, empty."""
    s3.server.ask("PUT", "/my-bucket")
    for name in ("search_spaces", "sweeps"):
        shutil.copytree(REPOSITORY / name, workplace / name)
    monkeypatch.syspath_prepend(workplace)
    monkeypatch.setenv("RAY_ADDRESS", ray_head)
    return workplace


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_says_works(page: Path, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page):
        place = f"{page.name}:{block.line}"
        if block.kind == "file":
            (reader / block.file).write_text(block.text)
        elif block.kind == "python":
            exec(compile(block.text, place, "exec"), {"__name__": "__main__"})
        elif block.kind == "shell":
            for words in block.commands:
                command = " ".join(words)
                if not any(re.match(beginning, command) for beginning in ELSEWHERE):
                    code = run(smaller(words))
                    assert code == 0, f"{place}: {command}\n{''.join(capsys.readouterr())}"
        else:
            check_example(block)


def smaller(words: list[str]) -> list[str]:
    """The command with a budget that a test has the time for; with the paper's data, no more than a look."""
    resumes, module = "--resume" in words, words[2]
    if "--dry-run" in words:
        return words
    if "data.root=/data/imagenet" in words:
        return [*words, "--dry-run"]
    if module == "aln.sweep":
        return [*words, "--trials", "3"] if resumes else [*words, "--trials", "2", "--set", *SHORT_SWEEP]
    short = {"aln.train": ["epochs=1"], "aln.study": SHORT_STUDY}.get(module)
    return words if resumes or short is None else [*words, "--set", *short]


# One process for trials starts in half the time of two.
SHORT_SWEEP = ["run.epochs=1", "scheduler.grace=1", "max_concurrent=1"]
SHORT_STUDY = [
    "sweep.run.epochs=1",
    "sweep.scheduler.grace=1",
    "sweep.max_concurrent=1",
    "stages.search.space=[../search_spaces/mirror.yaml]",
    "stages.search.sweep.trials=1",
    "stages.transfer.for_each={run.model: [resnet8]}",
    "stages.transfer.sweep.seeds=1",
]


def run(words: list[str]) -> int:
    """Runs the command, in this process if it is one of ours; returns its exit code."""
    python, option, module, *arguments = words
    assert (python, option) == ("python", "-m"), f"{words}: nothing here runs it, nor does anything of ELSEWHERE"
    if not module.startswith("aln."):
        return subprocess.run([sys.executable, *words[1:]], check=False).returncode
    home = importlib.import_module(module)
    if not hasattr(home, "main"):
        home = importlib.import_module(f"{module}.__main__")
    code: int = home.main(arguments)
    return code


def check_example(block: Block) -> None:
    """Checks an example of a file by what reads such files; what it is shows in its keys."""
    if block.text.startswith("["):
        tomllib.loads(block.text)
        return
    document = parse_document(block.text, "example")
    if "stages" in document.content:
        describe_study(document)
    elif "rule" in document.content:
        parse_space(document, {})
    else:
        parse_sweep(document)


@pytest.mark.parametrize("source", sorted(set(ELSEWHERE.values())))
def test_what_runs_elsewhere_is_there(source: str) -> None:
    assert (REPOSITORY / source).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
