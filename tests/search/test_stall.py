"""A process whose training hangs ends itself, having said where: real processes that hang."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aln.search.stall import last_words, stall_note

PROGRAM = """
import re, sys, time
from pathlib import Path
from aln.search.stall import StallWatch, stall_note

def tell(text):
    print(text, flush=True)
    sys.exit(0)  # as Tune answers a last report

def hang_here():
    {body}

with StallWatch({seconds}, tell, stall_note(Path("{folder}"), "000")) as watch:
    {before}
    hang_here()
print("ended well")
"""


def run(folder: Path, body: str, seconds: float | None, before: str = "watch.moved()") -> tuple[int, str, str]:
    """Exit code of the process, what it printed, and its last words."""
    program = PROGRAM.format(body=body, seconds=seconds, folder=folder, before=before)
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, last_words(stall_note(folder, "000"))


def test_a_thread_that_hangs_is_told_of_and_the_process_ends_whatever_is_answered(tmp_path: Path) -> None:
    code, out, words = run(tmp_path, "time.sleep(1e6)", 0.5)
    assert code == 1
    assert out.endswith("\nno step for 0.5 s\n")
    assert "in hang_here" in out
    assert "ended well" not in out
    assert words == ""


def test_one_that_holds_the_interpreter_leaves_its_stacks_behind(tmp_path: Path) -> None:
    code, out, words = run(tmp_path, "re.match('(a+)+$', 60 * 'a' + 'b')", 0.5)
    assert code == 1
    assert out == ""
    assert "in hang_here" in words
    assert words.endswith("no thread got a turn")


@pytest.mark.parametrize(("before", "seconds"), [("pass", 1.0), ("watch.moved()", None)], ids=["start-up", "never"])
def test_starting_may_take_longer_than_a_step_and_without_a_limit_all_may(
    tmp_path: Path, before: str, seconds: float | None
) -> None:
    assert run(tmp_path, "time.sleep(2.5)", seconds, before) == (0, "ended well\n", "")


def test_start_up_ends_too(tmp_path: Path) -> None:
    code, out, _ = run(tmp_path, "time.sleep(1e6)", 0.1, "pass")
    assert code == 1
    assert out.endswith("\nno step for 1 s\n")


def test_waiting_for_the_driver_is_no_stall(tmp_path: Path) -> None:
    body = "\n    ".join(["with watch.paused():", "    time.sleep(2.5)"])
    assert run(tmp_path, body, 1.0) == (0, "ended well\n", "")
