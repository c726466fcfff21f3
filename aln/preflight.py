"""What is asked before anything starts: whether servers are there, and whether folders can be written."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from aln.errors import AlnError, StorageError
from aln.storage import open_storage

_PORTS = {"http": 80, "https": 443}
# A password of HTTP has no slash, after which an at sign means nothing. SQLAlchemy takes all up to an at sign for one
# of a database, also what should have been quoted, and databases take one as a parameter, too.
_PASSWORDS = (
    re.compile(r"(\bhttps?://[^/@:\s]*):[^/\s]*(?=@)"),
    re.compile(r"((?<![\w+.-])(?!https?:)[\w+.-]+://[^/@:\s]*):\S*(?=@)"),
    re.compile(r"([?&]\w*password=)[^&\s]+"),
)


def shown(text: str) -> str:
    """The text with the passwords of addresses (`scheme://user:password@host`, `?password=…`) left out."""
    for password in _PASSWORDS:
        text = password.sub(r"\1", text)
    return text


_QUOTED = "expected user:password@host:port, with %2F for / and %40 for @ in user and password"


def require_listener(address: str, who: str, seconds: float = 10.0) -> None:
    """Raises `AlnError` naming `who` and the address if nothing accepts a connection there within so many seconds.

    Asked first because client libraries retry for minutes. Takes `host:port` and URLs; an address without a port
    (`auto`, a file) is none that can be asked, and passes.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError as error:  # a port that is no number, or too large
        # What follows a colon may be the beginning of a password: it is not repeated.
        said = _QUOTED if "@" in address else error
        raise AlnError(f"{who} at {shown(address)}: {said}") from error
    if parts.netloc.count("@") > 1:
        raise AlnError(f"{who} at {shown(address)}: {_QUOTED}")
    if not host or not port:
        return
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        raise AlnError(shown(f"{who} at {address} cannot be reached: {error}")) from error


def make_folder(place: str | Path) -> None:
    """Makes a folder that must not be there yet, or takes a URL that holds nothing yet.

    Raises `AlnError` naming it if it cannot be made, written, listed or read.
    """
    try:
        storage = open_storage(place)
        storage.create()
        try:
            storage.check_writable()
        except StorageError:
            if "://" not in storage.root:  # an empty folder would be in the way of the next try
                with contextlib.suppress(OSError):
                    Path(storage.root).rmdir()
            raise
    except StorageError as error:
        raise AlnError(f"{place} cannot be made for the results: {error.reason}") from error
