"""What code a sweep runs on, so that it can be said if that changes between its first trial and its last."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

_PACKAGES = ("numpy", "optuna", "ray", "torch", "torchvision")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that training and search depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def fingerprint() -> dict[str, str]:
    """Versions of what training depends on, and a hash of every file of `aln` and of modules of the user's own.

    The latter are those that are imported and lie under the working folder, outside this environment.
    """
    package = Path(__file__).parent
    found = versions()
    for path in sorted(package.rglob("*.py")):
        found[str(Path("aln") / path.relative_to(package))] = _hash(path)
    here, environment = Path.cwd(), Path(sys.prefix).resolve()
    for module in list(sys.modules.values()):
        path = Path(getattr(module, "__file__", None) or "/").resolve()
        own = path.is_relative_to(here) and not path.is_relative_to(environment) and not path.is_relative_to(package)
        if own and path.suffix == ".py" and path.is_file():  # torch names files that are not there
            found[str(path.relative_to(here))] = _hash(path)
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, each in words: versions with both, files by name."""
    said = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if name.endswith(".py"):
            said.append(name if old and new else f"{name} ({'new' if new else 'gone'})")
        else:
            said.append(f"{name} {old or 'absent'} -> {new or 'absent'}")
    return said


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
