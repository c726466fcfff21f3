"""Probing for servers and folders, with real ones."""

import socket

import pytest

from aln.errors import AlnError
from aln.preflight import make_folder, require_listener


@pytest.fixture
def port():
    """A port of loopback that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{}", "http://127.0.0.1:{}", "http://127.0.0.1:{}/api", "ray://127.0.0.1:{}"]
)
def test_a_listener_is_found(port, address):
    require_listener(address.format(port), "The server")


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "http://127.0.0.1:{}"])
def test_nobody_is_named(port, address):
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    address = address.format(free)
    with pytest.raises(AlnError, match=f"The server at {address} cannot be reached: .*refused"):
        require_listener(address, "The server")


@pytest.mark.parametrize("address", ["auto", "sqlite:///mlflow.db", "local", "databricks://profile"])
def test_what_cannot_be_asked_passes(address):
    require_listener(address, "The server")


@pytest.mark.parametrize("address", ["postgresql://me:hid/den@db/aln", "http://me:hid@den@host"])
def test_a_password_that_should_be_quoted_is_not_repeated(address):
    with pytest.raises(AlnError, match="expected user:password@host:port, with %2F for / and %40 for @") as caught:
        require_listener(address, "The server")
    assert "hid" not in str(caught.value)


def test_a_port_out_of_range_is_said():
    with pytest.raises(AlnError, match=r"The server at http://127\.0\.0\.1:99999: Port out of range"):
        require_listener("http://127.0.0.1:99999", "The server")


def test_a_folder_is_made_with_its_parents(tmp_path):
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "b"]
    assert not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize("parent", ["file", "/proc"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, parent):
    (tmp_path / "file").touch()
    folder = tmp_path / parent / "run"
    with pytest.raises(AlnError, match=f"{folder} cannot be made for the results: "):
        make_folder(folder)


def test_a_folder_that_is_there_is_not_taken(tmp_path):
    with pytest.raises(AlnError, match=f"{tmp_path} cannot be made for the results: File exists"):
        make_folder(tmp_path)
