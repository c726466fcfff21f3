"""`python -m aln.report SWEEP …`: one page of what sweeps found, whole in one file.

The sweeps are read from MLflow (`MLFLOW_TRACKING_URI`, else `mlflow.db` in the working folder); they may still be
going on. With several, their rules stand side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from aln.command import guarded, relative


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (0 written, 2 bad input)."""
    return guarded(_main, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aln.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweeps", metavar="SWEEP", nargs="+", help="names of sweeps that MLflow knows")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    parser.add_argument("--title", help="at the head of the page (default: the names of the sweeps)")
    return parser


def _main(options: argparse.Namespace, console: Console) -> int:
    # MLflow, Optuna and plotly take seconds to import: a mistake on the command line should not wait for them.
    from aln.report.page import write_report

    written = write_report(options.sweeps, options.out, title=options.title)
    console.print(f"Open {relative(written)} in a browser.", highlight=False, soft_wrap=True, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
