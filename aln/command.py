"""What the commands share: how they fail. Errors of `aln` are printed without a traceback, with exit code 2."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from aln.errors import AlnError


def guarded(command: Callable[[argparse.Namespace, Console], int], options: argparse.Namespace) -> int:
    """Runs a command; returns its exit code, 2 if it refused its input, 130 if it was interrupted."""
    # Third-party deprecations are for us (tests turn them into errors), not for the person at the terminal.
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # Ray, which reads this when it is imported, prints a paragraph of every process that is lost; we say what follows.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed")
    try:
        return command(options, Console())
    except AlnError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def add_settings(parser: argparse.ArgumentParser, help: str) -> None:
    """The option `--set KEY=VALUE …` of a command, which may be given more than once; `options.set` is a list."""
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=help)


def runnable(command: str) -> str:
    """The command as it works from this shell: its program by path unless PATH finds this environment's own.

    It may begin with variables for the program: `NAME=value program …`.
    """
    match = re.fullmatch(r"((?:\w+=\S+ )*)(\S+)(.*)", command)
    assert match
    variables, name, rest = match.groups()
    here, found = Path(sys.executable).with_name(name), shutil.which(name)
    if found is not None and Path(found).parent.absolute() == here.parent:
        return command
    inside = here.is_relative_to(Path.cwd())
    return f"{variables}{here.relative_to(Path.cwd()) if inside else here}{rest}"


def relative(path: Path) -> Path:
    """The path as a person in the working folder would write it."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
