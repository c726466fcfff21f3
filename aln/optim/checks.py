"""Bounds of settings, and how their errors read."""

from __future__ import annotations

import math

from aln.errors import AlnError


def at_least_zero(**settings: float) -> None:
    """Raises `AlnError` for the first setting that is negative or not finite."""
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise AlnError(f"{name} = {value}: expected a number of at least 0")


def above_zero(**settings: float | None) -> None:
    """Raises `AlnError` for the first setting that is 0, negative or not finite. None stands for no setting."""
    for name, value in settings.items():
        if value is not None and not 0 < value < math.inf:
            raise AlnError(f"{name} = {value}: expected a number above 0")


def below_one(**settings: float) -> None:
    """Raises `AlnError` for the first setting that is not in [0, 1)."""
    for name, value in settings.items():
        if not 0 <= value < 1:
            raise AlnError(f"{name} = {value}: expected a number of at least 0 and below 1")
