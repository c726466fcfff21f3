"""Hosts that this machine pretends to be: each has a network address, a process table and an sshd of its own.

They are namespaces of the kernel, tied together by a bridge in a further one (the laptop's place); the machine's own
network is not touched. Needs root, iproute2, util-linux and openssh-server. Files are the machine's, but for the home
folder, `/run`, `/dev/shm` and `/tmp/ray`, which each host has for itself under the same name.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

LAPTOP = "10.77.0.1"
TOOLS = ("ip", "unshare", "nsenter", "rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd")

_BOOT = """
mount --make-rprivate /
mount --bind {own}/passwd /etc/passwd
mount --bind {own}/home {home}
mkdir -p /tmp/ray
mount --bind {own}/ray /tmp/ray
mount -t tmpfs -o size=8g tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
hostname {name}
exec /usr/sbin/sshd -D -e -f {own}/sshd_config
"""
_SSHD = """
ListenAddress {address}
HostKey {root}/key
AuthorizedKeysFile {root}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
MaxStartups 50
"""


@dataclass
class Host:
    """A host that runs.

    Attributes:
        home: its home folder, as this machine sees it.
        booted: the process that all of the host's end with.
    """

    name: str
    address: str
    home: Path
    booted: subprocess.Popen[bytes]
    bridge: str

    def cut_off(self) -> None:
        """Nothing reaches the host or leaves it; it lives on."""
        _ip("-n", self.bridge, "link", "set", self.name, "down")

    def let_in(self) -> None:
        """Ends what `cut_off` began."""
        _ip("-n", self.bridge, "link", "set", self.name, "up")

    def kill(self) -> None:
        """The host is gone, at once."""
        self.booted.kill()
        self.booted.wait()

    def processes(self) -> dict[int, str]:
        """Command lines of what runs there, but for its sshd and those who are dead already."""
        first = _child(self.booted.pid)
        if first is None:
            return {}
        table = _namespace(first)
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _namespace(int(entry.name)) == table and int(entry.name) != first:
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if words and not words.startswith("sshd"):
                        found[int(entry.name)] = words
        return found

    def ask(self, program: str, *arguments: str) -> str:
        """What a Python program prints that runs on the host's network."""
        command = ["nsenter", "--net", f"--target={_child(self.booted.pid)}", sys.executable, "-c", program]
        return subprocess.run([*command, *arguments], check=True, capture_output=True, text=True, timeout=120).stdout

    def listeners(self) -> set[tuple[str, int]]:
        """Addresses (IPv4 and IPv6) and ports at which the host takes connections."""
        found: set[tuple[str, int]] = set()
        first = _child(self.booted.pid)
        if first is None:
            return found
        for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
            for line in Path(f"/proc/{first}/net/{name}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == "0A":
                    number, _, port = local.partition(":")
                    words = [bytes.fromhex(number[at : at + 8])[::-1] for at in range(0, len(number), 8)]
                    found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
        return found


@dataclass
class Hosts:
    """All of them, and the laptop from which they are reached.

    Attributes:
        root: the folder of all that belongs to them.
        key: private key that lets root in on each.
    """

    root: Path
    bridge: str
    hosts: dict[str, Host]
    bashrc: str

    def boot(self, name: str, address: str) -> None:
        """Starts a host, in the place of a dead one of that name, whose files are set aside, if there is one."""
        if (dead := self.hosts.get(name)) is not None:
            assert dead.booted.poll() is not None, f"{name} lives"
            _ip("-n", self.bridge, "link", "del", name)
            _ip("netns", "del", f"{self.bridge}{name}")
            (self.root / name).rename(self.root / f"{name}-lost")
        host = self.hosts[name] = _boot(self.root, self.bridge, name, address, self.bashrc)
        until(lambda: (host.address, 22) in host.listeners(), 30, f"sshd of {name}")

    @property
    def key(self) -> Path:
        return self.root / "key"

    @property
    def home(self) -> Path:
        """The home folder on every host, as the host sees it."""
        return self.root / "home"

    @property
    def laptop(self) -> Path:
        """The laptop's home folder."""
        return self.root / "laptop"

    def on_laptop(self, command: Sequence[str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
        """Starts a command where the laptop is; what it says is added to the log."""
        environment = {
            "HOME": str(self.laptop),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TMPDIR": str(self.laptop),
            "RAY_TMPDIR": str(self.laptop),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_AUTH_MODE": "token",
            "LANG": "C.UTF-8",
        }
        whole = ["ip", "netns", "exec", self.bridge, *command]
        with log.open("a") as said:
            return subprocess.Popen(
                whole, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )


@contextlib.contextmanager
def started_hosts(addresses: Mapping[str, str], bashrc: str) -> Iterator[Hosts]:
    """Hosts by name, each at its address in 10.77.0.0/24 and with these lines in its `.bashrc`; all end with it."""
    root = Path(tempfile.mkdtemp(prefix="aln", dir="/tmp"))  # names of sockets must be short
    bridge = root.name
    hosts = Hosts(root, bridge, {}, bashrc)
    try:
        for folder in ("home", "laptop"):
            (root / folder).mkdir()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / "key"], check=True)
        _ip("netns", "add", bridge)
        _ip("-n", bridge, "link", "set", "lo", "up")
        _ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        _ip("-n", bridge, "addr", "add", f"{LAPTOP}/24", "dev", "br0")
        _ip("-n", bridge, "link", "set", "br0", "up")
        for name, address in addresses.items():
            hosts.boot(name, address)
        yield hosts
    finally:
        for host in hosts.hosts.values():
            host.kill()
        for name in [*(f"{bridge}{name}" for name in addresses), bridge]:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        shutil.rmtree(root, ignore_errors=True)


def _boot(root: Path, bridge: str, name: str, address: str, bashrc: str) -> Host:
    own, space = root / name, f"{bridge}{name}"
    for folder in ("home", "ray"):
        (own / folder).mkdir(parents=True)
    (own / "home/.bashrc").write_text(bashrc)
    passwd = Path("/etc/passwd").read_text().splitlines()
    others = [line for line in passwd if not line.startswith("root:")]
    (own / "passwd").write_text("\n".join([f"root:x:0:0:root:{root}/home:/bin/bash", *others]) + "\n")
    (own / "sshd_config").write_text(_SSHD.format(address=address, root=root))
    (own / "boot.sh").write_text("set -e\n" + _BOOT.format(own=own, home=root / "home", name=name))
    _ip("netns", "add", space)
    _ip("-n", space, "link", "set", "lo", "up")
    _ip("-n", bridge, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
    _ip("-n", bridge, "link", "set", name, "master", "br0", "up")
    _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", space, "link", "set", "eth0", "up")
    _ip("-n", space, "route", "add", "default", "via", LAPTOP)
    apart = "--fork --kill-child --pid --mount --uts --ipc --mount-proc"
    command = ["ip", "netns", "exec", space, "unshare", *shlex.split(apart), "bash", str(own / "boot.sh")]
    with (own / "sshd.log").open("w") as log:
        booted = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return Host(name, address, own / "home", booted, bridge)


def until(condition: Callable[[], _T], seconds: float, what: str) -> _T:
    """The first true value of the condition. Raises `AssertionError` naming what did not come in so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)
    return value


def end(process: subprocess.Popen[bytes]) -> None:
    """Interrupts a process as Ctrl-C does."""
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _child(pid: int) -> int | None:
    """The first process of the namespace that `unshare` made."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""
