"""A data set's numbered files, `train-00000-of-01024` and so on: which there are, and which are missing."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

# The words by which a split's files and folders may go.
WORDS = {"train": ("train",), "validation": ("val", "validation")}
_SHOWN = 5  # missing files that are named


@dataclass(frozen=True)
class Series:
    """What the names of files that belong together have in common: all but the number."""

    folder: str
    before: str
    after: str
    total: int | None

    def named(self, number: int | str, width: int = 0) -> str:
        return f"{self.folder}{self.before}{number:>0{width}}{self.after}"


def find_shards(root: Path, suffix: str) -> dict[str, dict[Series, dict[int, str]]]:
    """For each split the series of numbered files: name under `root` by number.

    They lie in `root`, or in a folder of one of the splits' names.

    Args:
        suffix: what the names end in, a regular expression.
    """
    splits: dict[str, dict[Series, dict[int, str]]] = {}
    for split, words in WORDS.items():
        name = re.compile(rf"((?:.*[-_.])?(?:{'|'.join(words)})[-_])(\d+)((?:-of-(\d+))?{suffix})", re.IGNORECASE)
        series: dict[Series, dict[int, str]] = defaultdict(dict)
        for folder in ("", *(f"{word}/" for word in words)):
            for path in sorted((root / folder).iterdir()) if (root / folder).is_dir() else ():
                if match := name.fullmatch(path.name):
                    total = int(match[4]) if match[4] else None
                    series[Series(folder, match[1], match[3], total)][int(match[2])] = folder + path.name
        if series:
            splits[split] = dict(series)
    return splits


def complete(root: Path, split: str, series: dict[Series, dict[int, str]]) -> tuple[list[str], list[str]]:
    """The files of a split in the order of their numbers, and a line for each thing that is wrong with them."""
    if not series:
        words = " or ".join(WORDS[split])
        return [], [f"{root} holds no {split} files, expected names that begin with {words} and a number"]
    if len(series) > 1:
        found = " and ".join(sorted(one.named("*") for one in series))
        return [], [f"{root} holds several series of {split} files, expected one: {found}"]
    [(one, files)] = series.items()
    problems = [f"{root / name} is empty" for name in files.values() if not (root / name).stat().st_size]
    first = 0 if one.total is not None else min(1, *files)
    last = one.total - 1 if one.total is not None else max(files)
    if missing := [number for number in range(first, last + 1) if number not in files]:
        width = len(str(last)) if one.total is None else len(next(iter(files.values()))) - len(one.named(""))
        shown = ", ".join(one.named(number, width) for number in missing[:_SHOWN])
        more = ", …" if len(missing) > _SHOWN else ""
        count = f"{len(missing)} of {last - first + 1} {split} files"
        problems.append(f"{root} lacks {count}: {shown}{more}")
    return [files[number] for number in sorted(files)], problems
