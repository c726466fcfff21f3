"""Numbered files, `train-00000-of-01024` and so on: which of a split there are, and which are missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aln.data.roots import Root
from aln.storage import StoredFile

# The words by which a split's files and folders go.
WORDS = {"train": ("train",), "validation": ("val", "validation")}
_SHOWN = 5  # missing files that are named


@dataclass(frozen=True)
class Shard:
    """A numbered file.

    Attributes:
        file: named from the root of the data set on.
        series: the name with `*` in the place of the number: what it shares with the files it belongs to.
        digits: the number as it is written.
        total: how many files there are, as the name says; None where it does not.
    """

    file: StoredFile
    series: str
    digits: str
    total: int | None

    @property
    def number(self) -> int:
        return int(self.digits)


def find_shards(root: Root, split: str, suffix: str) -> list[Shard]:
    """A split's files by number. They lie in `root`, or in a folder of the split's name.

    Args:
        suffix: what the names end in, a regular expression.
    """
    pattern = re.compile(rf"((?:.*[-_.])?(?:{'|'.join(WORDS[split])})[-_])(\d+)((?:-of-(\d+))?(?:{suffix}))")
    found = []
    for folder in ("", *WORDS[split]):
        for file in root.listing(folder).files:
            if match := pattern.fullmatch(file.name.rpartition("/")[2]):
                series = f"{folder}/{match[1]}*{match[3]}" if folder else f"{match[1]}*{match[3]}"
                found.append(Shard(file, series, match[2], int(match[4]) if match[4] else None))
    return sorted(found, key=lambda shard: (shard.series, shard.number))


def shard_problems(root: Root, split: str, shards: Sequence[Shard]) -> list[str]:
    """A line for each thing that is wrong with a split's files: none at all, several series, missing or empty ones."""
    if not shards:
        words = " or ".join(f"{word}-" for word in WORDS[split])
        return [f"{root.address} holds no {split} files, expected {words} and a number"]
    if len(series := sorted({shard.series for shard in shards})) > 1:
        return [f"{root.address} holds several series of {split} files, expected one: {', '.join(series)}"]
    problems = [f"{root.told(shard.file.name)} is empty" for shard in shards if not shard.file.size]
    # A series without a total counts from 0 or from 1.
    numbers, total = [shard.number for shard in shards], shards[0].total
    expected = range(min(1, *numbers), max(numbers) + 1) if total is None else range(total)
    if missing := sorted(set(expected) - set(numbers)):
        width = len(shards[0].digits)
        names = [shards[0].series.replace("*", f"{number:0{width}}") for number in missing[:_SHOWN]]
        more = ", …" if len(missing) > _SHOWN else ""
        problems.append(
            f"{root.address}: {len(missing)} of {len(expected)} {split} files are missing: {', '.join(names)}{more}"
        )
    if surplus := [shard.file.name for shard in shards if shard.number not in expected]:
        problems.append(f"{root.told(surplus[0])}: its number is not below {total}, the number of files")
    return problems
