"""Why MLflow cannot be used, in one line."""

from __future__ import annotations

from mlflow.exceptions import MlflowException

from aln.errors import AlnError
from aln.preflight import shown


def reason(error: Exception) -> str:
    """What an error says first, without passwords; its name if it says nothing.

    MLflow lets the errors of database drivers and of HTTP clients through, and names the addresses that it asked.
    """
    lines = shown(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def unusable(uri: str, error: Exception, experiment: str = "") -> AlnError:
    """The error for the person who asked for MLflow at `uri`: what is wrong, and what is expected."""
    code = error.error_code if isinstance(error, MlflowException) else ""
    if code == "UNAUTHENTICATED":
        wanted = "asks for a user and a password that it knows: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    elif code == "PERMISSION_DENIED":
        wanted = f"forbids what is needed of experiment {experiment!r}" if experiment else "forbids to look for runs"
    else:
        wanted = "cannot be used"
    return AlnError(f"MLflow at {shown(uri)} {wanted}: {reason(error)}")
