"""Memory: what is measured is there, and what is said to fit does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aln import memory

GIB = 2**30


def test_peak_is_what_a_process_held_at_most() -> None:
    """Of its own, not of the process that started it; and what was given back counts."""
    script = "\n".join(
        [
            "from aln.memory import peak_resident",
            "before = peak_resident()",
            "held = bytearray(b'x') * (200 * 2**20)",
            "del held",
            "print(before, peak_resident())",
        ]
    )
    ballast = bytearray(b"x") * (300 * 2**20)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, peak = map(int, done.stdout.split())
    assert 0 < before < 100 * 2**20 < len(ballast)
    assert 195 * 2**20 <= peak - before < 220 * 2**20  # Linux counts in batches


def test_machine_has_more_than_this_process() -> None:
    assert memory.of_machine() > memory.peak_resident() > 0


@pytest.mark.parametrize(
    ("each", "whole", "share"),
    [
        (int(3.4 * GIB), 16 * GIB, 0.25),  # 3.9 GiB with the context
        (int(3.6 * GIB), 16 * GIB, 0.333),
        (9 * GIB, 16 * GIB, 1.0),
        (16 * GIB, 16 * GIB, 0.0),
        (1, 80 * GIB, 0.062),  # sixteen at most
    ],
)
def test_share_of_a_gpu_is_what_as_many_fit_by(each: int, whole: int, share: float) -> None:
    assert memory.share_of_gpu(each, whole) == share
    if share:
        assert int(1 / share) * (each + memory.CONTEXT) <= whole


@pytest.mark.parametrize(("size", "words"), [(GIB // 2, "0.5 GiB"), (int(1.26 * GIB), "1.3 GiB"), (23 * GIB, "23 GiB")])
def test_bytes_in_words(size: int, words: str) -> None:
    assert memory.in_words(size) == words
