"""MLflow: one parent run a sweep, one child run a trial, written from a spool on disk."""

from aln.tracking.reader import Reader
from aln.tracking.reasons import reason
from aln.tracking.tracker import SPOOL, TrackedRun, Tracker, default_uri, find_runs, ui_command, ui_page

__all__ = ["SPOOL", "Reader", "TrackedRun", "Tracker", "default_uri", "find_runs", "reason", "ui_command", "ui_page"]
