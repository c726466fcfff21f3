"""Object stores: S3 and what speaks its language, and Google Cloud Storage, through pyarrow.

Credentials, region and endpoint come from where the stores' own tools look for them: `AWS_ACCESS_KEY_ID` and
`AWS_SECRET_ACCESS_KEY` or `~/.aws`, `AWS_REGION`, `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, `AWS_CA_BUNDLE`,
`AWS_MAX_ATTEMPTS`; `GOOGLE_APPLICATION_CREDENTIALS`, `STORAGE_EMULATOR_HOST`.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from aln.errors import MissingFileError, StorageError
from aln.storage.interface import Storage, StoredFile

_CONNECT = 5.0  # seconds until a connection stands
_SILENCE = 20.0  # seconds without a byte after which a connection is given up
_ATTEMPTS = 3  # at a request, the pauses between them growing
_ONE_REQUEST = 4 << 20  # bytes that an upload to S3 sends in one request; in parts, all but the last have five MiB
_RETRY = timedelta(seconds=15)  # how long Google's client goes on trying
_S3_FAILURE = re.compile(
    r"AWS Error (\w+(?: \(HTTP status \d+\))?).* during \w+ operation: ?(.*?)(?: \(Request ID.*)?$"
)
_GS_FAILURE = re.compile(r"google::cloud::Status\((\w+): (.*?)(?: error_info=.*)?$")
_UNANSWERED = ("NETWORK_CONNECTION", "UNAVAILABLE", "REQUEST_TIMEOUT", "DEADLINE_EXCEEDED")


class ObjectStore(Storage):
    """What lies under `s3://bucket/prefix` or `gs://bucket/prefix`. An object appears when its upload is complete."""

    def __init__(self, root: str) -> None:
        super().__init__(_checked_url(root))
        self.scheme, _, path = self.root.partition("://")
        self.bucket = path.split("/")[0]

    def folder(self, name: str) -> ObjectStore:
        return ObjectStore(self.address(name))

    def create(self) -> None:
        if self.files():
            raise StorageError(self.root, "cannot be made", "it holds files already")

    @functools.cached_property
    def _client(self) -> Any:
        """pyarrow's client; it opens no connection yet. Made where it is used: it reads that process's environment."""
        from pyarrow import fs

        return _s3(fs, self.root, self.bucket) if self.scheme == "s3" else _gs(fs, self.root)

    @functools.cached_property
    def _client_of_parts(self) -> Any:
        """The client for uploads in more than one request."""
        from pyarrow import fs

        # By default a stream begins such an upload when it is written to. If that fails, it takes itself for one of
        # nothing, and puts an empty object in the place of what was there when it is closed (pyarrow 25).
        return _s3(fs, self.root, self.bucket, allow_delayed_open=False) if self.scheme == "s3" else self._client

    @property
    def endpoint(self) -> str:
        """The server that is asked, for messages."""
        if self.scheme == "s3":
            return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        return os.environ.get("STORAGE_EMULATOR_HOST") or "Google Cloud Storage"

    def _write(self, address: str, content: bytes | memoryview) -> None:
        # All at once, since leaving the stream for an exception, too, completes the object with what it has.
        client = self._client if memoryview(content).nbytes <= _ONE_REQUEST else self._client_of_parts
        with client.open_output_stream(_key(address), compression=None) as stream:
            stream.write(content)

    def _open(self, address: str) -> tuple[int, Callable[[int, int], bytes], Callable[[], None]]:
        file = self._client.open_input_file(_key(address))

        def read_at(length: int, start: int) -> bytes:
            with self._not_given_up():
                return bytes(file.read_at(length, start))

        with self._not_given_up():
            return file.size(), read_at, file.close

    @contextmanager
    def _not_given_up(self) -> Iterator[None]:
        """Raises `OSError` for a file whose server Google's client has given up: closed, to pyarrow."""
        try:
            yield
        except ValueError as error:
            raise OSError(f"{self.endpoint} does not answer: {error}") from error

    def _list(self, address: str) -> tuple[list[StoredFile], list[str]]:
        from pyarrow.fs import FileSelector

        found = self._client.get_file_info(FileSelector(_key(address), allow_not_found=True))
        if not found:
            self._require_bucket()
        files = [StoredFile(info.base_name, info.size, info.mtime_ns or 0) for info in found if info.is_file]
        return files, [info.base_name for info in found if not info.is_file]

    def _exists(self, address: str) -> bool:
        there = bool(self._client.get_file_info(_key(address)).is_file)
        if not there:
            self._require_bucket()
        return there

    def _delete(self, address: str) -> None:
        try:
            self._client.delete_file(_key(address))
        except FileNotFoundError:
            self._require_bucket()

    def _delete_folder(self, address: str) -> None:
        self._client.delete_dir_contents(_key(address), missing_dir_ok=True)
        if self._is_folder(address):  # which has an object of its own
            self._client.delete_dir(_key(address))
        else:
            self._require_bucket()

    def _is_folder(self, address: str) -> bool:
        from pyarrow.fs import FileType

        return bool(self._client.get_file_info(_key(address)).type == FileType.Directory)

    def _require_bucket(self) -> None:
        """Raises `StorageError` if there is no bucket: to listings, an absent bucket is an empty one."""
        if self._bucket_is_missing():
            raise StorageError(self.root, "cannot be used", self._no_bucket())

    def _bucket_is_missing(self) -> bool:
        from pyarrow.fs import FileType

        try:
            return bool(self._client.get_file_info(self.bucket).type == FileType.NotFound)
        except OSError:  # it may not be asked for, as it may with rights to objects alone
            return False

    def _no_bucket(self) -> str:
        return f"{self.endpoint} has no bucket '{self.bucket}'"

    def _failure(self, address: str, failed: str, error: OSError) -> StorageError:
        text = " ".join(str(error).split())
        absent = isinstance(error, FileNotFoundError)
        if "NO_SUCH_BUCKET" in text or (absent and self._bucket_is_missing()):
            return StorageError(address, failed, self._no_bucket())
        if absent:
            return MissingFileError(address, failed, "no such file")
        match = _S3_FAILURE.search(text) or _GS_FAILURE.search(text)
        if match is None:
            return StorageError(address, failed, text)
        detail = match[2].rpartition("Details: ")[2].rpartition("with a last message of ")[2]
        said = "does not answer" if match[1] in _UNANSWERED else f"says {match[1]}"
        return StorageError(address, failed, f"{self.endpoint} {said}: {detail}".removesuffix(": "))


def _key(address: str) -> str:
    """What pyarrow calls an object or a folder: the bucket and the path in it."""
    return address.partition("://")[2]


def _checked_url(url: str) -> str:
    """The URL without a slash at its end. Raises `StorageError` if it is not that of a bucket or a folder in one."""
    scheme, _, rest = url.partition("://")
    rest = rest.rstrip("/")
    bucket = rest.split("/")[0]
    if any(sign in bucket for sign in ":@") or any(sign in rest for sign in "?#"):
        # What else stands there may be a secret, and is not repeated.
        problem = "credentials, endpoint and settings belong in the environment"
        raise StorageError(f"{scheme}://…", "is no place for files", f"{problem}; expected {scheme}://bucket/folder")
    if not re.fullmatch(r"[\w.-]+", bucket) or any(part in ("", ".", "..") for part in rest.split("/")):
        raise StorageError(url, "is no place for files", f"expected {scheme}://bucket/folder")
    return f"{scheme}://{rest}"


def _s3(fs: Any, root: str, bucket: str, *, allow_delayed_open: bool = True) -> Any:
    """A client of S3, or of the store at the endpoint that the environment names."""
    settings: dict[str, Any] = {
        "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        "connect_timeout": _CONNECT,
        "request_timeout": _SILENCE,
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=_attempts(root)),
        # Without, an upload whose second part is lost is completed without it (pyarrow 25).
        "background_writes": True,
        "allow_delayed_open": allow_delayed_open,  # a small file goes in one request
    }
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        settings["scheme"], settings["endpoint_override"] = _split_endpoint(root, endpoint)
        settings["region"] = settings["region"] or "us-east-1"  # what such stores take for any
    elif settings["region"] is None:
        settings["region"] = fs.resolve_s3_region(bucket)
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        settings["tls_ca_file_path"] = bundle
    return fs.S3FileSystem(**settings)


def _gs(fs: Any, root: str) -> Any:
    """A client of Google Cloud Storage, or of the emulator that the environment names."""
    if not (emulator := os.environ.get("STORAGE_EMULATOR_HOST")):
        return fs.GcsFileSystem(retry_time_limit=_RETRY)
    scheme, host = _split_endpoint(root, emulator if "://" in emulator else f"http://{emulator}")
    return fs.GcsFileSystem(anonymous=True, scheme=scheme, endpoint_override=host, retry_time_limit=_RETRY)


def _split_endpoint(root: str, endpoint: str) -> tuple[str, str]:
    """Scheme and host of an endpoint's URL."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        shown = endpoint.rpartition("@")[2]  # without what may be a secret
        raise StorageError(root, "cannot be used", f"its endpoint is '{shown}'; expected http(s)://host:port")
    return parts.scheme, f"{parts.netloc}{parts.path.rstrip('/')}"


def _attempts(root: str) -> int:
    text = os.environ.get("AWS_MAX_ATTEMPTS", str(_ATTEMPTS))
    if not text.isdecimal() or not int(text):
        raise StorageError(root, "cannot be used", f"AWS_MAX_ATTEMPTS is '{text}'; expected a number from 1")
    return int(text)
