# SPDX-License-Identifier: Apache-2.0
"""Network namespaces with a bridge of ports between them, for tests on real kernels.

left l0 ---- m0 [bridge] m1 ---- r0 right
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S
from patience import until as wait_until

ROOT = Path(__file__).resolve().parent.parent
PAGE_BYTES = 8 << 20
SERVE = """
import functools, http.server, os, socket, sys
if os.path.isdir("/proc/sys/net/ipv6"):
    http.server.ThreadingHTTPServer.address_family = socket.AF_INET6  # and IPv4
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("", 8080), handler)
print("ready", flush=True)
server.serve_forever()
"""
FETCH = (
    f"""
PATIENCE_S = {PATIENCE_S}
"""
    + """
import hashlib, sys, urllib.request
host = f"[{sys.argv[1]}]" if ":" in sys.argv[1] else sys.argv[1]
with urllib.request.urlopen(f"http://{host}:8080/page", timeout=PATIENCE_S) as page:
    print(hashlib.sha256(page.read()).hexdigest())
"""
)
TELL = (
    f"""
PATIENCE_S = {PATIENCE_S}
"""
    + """
import socket, sys
with socket.create_connection((sys.argv[1], 8080), timeout=PATIENCE_S) as s:
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for part in sys.argv[2:]:
            s.sendall(part.encode())
        s.sendall(b" HTTP/1.0\\r\\n\\r\\n")
        answer = b""
        while data := s.recv(65536):
            answer += data
        print(answer.split(b"\\r\\n")[0].decode())
    except ConnectionResetError:
        print("reset")
"""
)
"""Sends a request in parts; prints the first line of the answer, or "reset"."""
PYTHON = "python3"
ANSWER_S = str(int(PATIENCE_S / 4))
"""How long is waited for an answer that will come."""
AS_LONG_AS_IT_TAKES = {"deadline_ms": 0}
"""Of an NF that decides: its test is not about deadlines, and the machine may be busy."""
HAS_IPV6 = Path("/proc/sys/net/ipv6").is_dir()
PROGRAMS = {"ip": "iproute2", "ethtool": "ethtool", "ping": "iputils-ping", "nsenter": "util-linux"}
IO = (
    "afpacket_rx",
    "afpacket_tx",
    "port_afpacket",
    "port_tap",
    "vnet",
    "spread",
    "link",
    "fail",
    "plugin",
    "port",
    "port_impair",
    "lane",
    "wrap",
)
PLUGINS = ("libnfm_afxdp.so", "libnfm_dpdk.so")


def why_not() -> str | None:
    """Returns what is missing for tests with namespaces, or None."""
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            return f"no {program} (Debian: {package})"
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        return "network namespaces need root, or: unshare -Urn pytest"
    if not os.access("/proc/sys/net/ipv4/ip_forward", os.W_OK):
        return "/proc/sys cannot be written here"
    return None


class Namespace:
    """A network namespace, kept by a process that sleeps."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        own = os.readlink("/proc/self/ns/net")
        self.pid = self._holder.pid
        wait_until(lambda: os.readlink(f"/proc/{self.pid}/ns/net") != own, "a namespace")
        self.speak_ipv6(False, "all", "default")
        self.run("ip", "link", "set", "lo", "up")

    def command(self, *command: str) -> list[str]:
        """Returns a command line that runs `command` in here."""
        return ["nsenter", "-t", str(self.pid), "-n", *command]

    def run(self, *command: str) -> str:
        """Runs a command to its end and returns what it printed."""
        line = self.command(*command)
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def ip(self, text: str) -> None:
        """Runs ip(8)."""
        self.run("ip", *text.split())

    def speak_ipv6(self, is_on: bool, *interfaces: str) -> None:
        """Switches IPv6 on or off, where the kernel has it."""
        for each in interfaces if HAS_IPV6 else ():
            file = f"/proc/sys/net/ipv6/conf/{each}/disable_ipv6"
            self.run("sh", "-c", f"echo {int(not is_on)} > {file}")

    def mac(self, interface: str) -> str:
        """Returns the MAC address of an interface."""
        return str(json.loads(self.run("ip", "-json", "link", "show", interface))[0]["address"])

    def works(self, *command: str) -> bool:
        """Says whether a command succeeds."""
        line = self.command(*command)
        done = subprocess.run(line, capture_output=True, timeout=PATIENCE_S, check=False)
        return done.returncode == 0

    def close(self) -> None:
        """Ends the holder; the namespace goes when nothing runs in it."""
        self._holder.kill()
        self._holder.wait()


class Here(Namespace):
    """The namespace that this process is in."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def command(self, *command: str) -> list[str]:
        """Returns the command line as it is."""
        return list(command)

    def close(self) -> None:
        """Leaves it as it is."""


class Bridge:
    """A running `live_bridge`."""

    def __init__(self, tool: Path, where: Namespace, *arguments: str) -> None:
        line = where.command(str(tool), *arguments)
        self._process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> dict[str, Any]:
        """Ends it and returns what it counted."""
        out, _ = self._process.communicate(timeout=PATIENCE_S)
        assert self._process.returncode == 0
        return dict(json.loads(out))

    def kill(self) -> None:
        """Makes sure that nothing is left."""
        self._process.kill()
        self._process.communicate()


def join(middle: Namespace, port: str, host: Namespace, end: str, addresses: Sequence[str]) -> None:
    """Lays a veth from the middle to a host that gets these addresses; IPv6 only if one is of it.

    A kernel with IPv6 sends reports from :: about its groups, some time after the link is up.
    """
    middle.ip(f"link add {port} type veth peer name {end} netns {host.pid}")
    middle.ip(f"link set {port} up")
    addresses = [each for each in addresses if HAS_IPV6 or ":" not in each]
    if any(":" in address for address in addresses):
        host.speak_ipv6(True, end)
    for address in addresses:
        host.ip(f"addr add {address} dev {end}{' nodad' if ':' in address else ''}")
    host.ip(f"link set {end} up")
    wait_until(lambda: "state UP" in middle.run("ip", "link", "show", port), "a carrier")


class Star:
    """Hosts around a namespace in the middle, each on a link of its own: m0 ---- e0."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.middle = Namespace()
        stack.callback(self.middle.close)
        self.hosts: list[Namespace] = []

    def host(self, *addresses: str, via: Sequence[str] = ()) -> Namespace:
        """Adds a host with these addresses, whose default routes lead to `via`."""
        made, number = Namespace(), len(self.hosts)
        self._stack.callback(made.close)
        self.hosts.append(made)
        join(self.middle, f"m{number}", made, "e0", addresses)
        for gateway in via:
            made.ip(f"route add default via {gateway} dev e0")
        return made


class Wire:
    """Three namespaces in a row: `left` and `right` are hosts, the bridge runs in `middle`."""

    def __init__(self, stack: ExitStack, tool: Path) -> None:
        self._stack, self._tool = stack, tool
        self.left, self.middle, self.right = (self._namespace() for _ in range(3))
        self.plug(self.left, "l0", "m0", 1)
        self.plug(self.right, "r0", "m1", 2)

    def _namespace(self) -> Namespace:
        made = Namespace()
        self._stack.callback(made.close)
        return made

    def plug(self, host: Namespace, end: str, port: str, number: int) -> None:
        """Lays a veth from the middle to a host that gets 10.9.0.`number` and fd09::`number`."""
        join(self.middle, port, host, end, (f"10.9.0.{number}/24", f"fd09::{number}/64"))

    def bridge(self, *arguments: str) -> Bridge:
        """Starts a bridge in the middle."""
        made = Bridge(self._tool, self.middle, *(arguments or ("m0", "m1")))
        self._stack.callback(made.kill)
        return made

    def ping(self, address: str, *options: str) -> bool:
        """Says whether `left` gets an answer; `-W` says for how long it is waited."""
        return self.left.works("ping", "-c", "1", "-W", ANSWER_S, *options, address)

    def wait_for_ping(self, address: str, *options: str) -> None:
        """Waits until `left` gets an answer."""
        wait_until(lambda: self.ping(address, "-W", "1", *options), f"ping {address} {options}")


class Server:
    """An HTTP server on a host."""

    def __init__(self, where: Namespace, page: Path) -> None:
        line = where.command(PYTHON, "-c", SERVE, str(page.parent))
        self._process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


def fetch(where: Namespace, address: str) -> str:
    """Returns the SHA-256 of the page as a host got it."""
    return where.run(PYTHON, "-c", FETCH, address).strip()


def digest(page: Path) -> str:
    """Returns the SHA-256 of the page as it is."""
    return hashlib.sha256(page.read_bytes()).hexdigest()


def make_page(folder: Path) -> Path:
    """Makes a file to fetch."""
    path = folder / "page"
    path.write_bytes(hashlib.shake_256(b"page").digest(PAGE_BYTES))
    return path


def find_plugin(name: str) -> Path | None:
    """Returns the installed library of a port, or None when this build is without it."""
    spec = find_spec("mesh._native")
    path = Path(str(spec.origin)).parent / name if spec is not None else None
    return path if path is not None and path.exists() else None


def build_bridge(folder: Path) -> Path:
    """Compiles `live_bridge` with sanitizers; the libraries of ports lie beside it."""
    tool = folder / "live_bridge"
    sources = [ROOT / f"native/src/io/{name}.c" for name in IO]
    sources += [ROOT / "native/src/base/pool.c", ROOT / "tests/native/live_bridge.c"]
    flags = ["-O2", "-g", "-std=gnu11", "-D_GNU_SOURCE", "-fno-strict-aliasing"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags += [f"-I{ROOT / name}" for name in ("native/include", "native/src")]
    subprocess.run(["cc", *flags, *map(str, sources), "-o", str(tool)], check=True)
    for plugin in filter(None, map(find_plugin, PLUGINS)):
        shutil.copy(plugin, folder)
    return tool


@contextmanager
def public_folder() -> Iterator[Path]:
    """Makes a folder that NFs may read, which are other users."""
    with tempfile.TemporaryDirectory(prefix="nfmesh-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def star() -> Iterator[Star]:
    """Builds the middle; nothing is left of it and its hosts afterwards."""
    with ExitStack() as stack:
        yield Star(stack)


@contextmanager
def wire(tool: Path) -> Iterator[Wire]:
    """Builds the namespaces; nothing is left of them afterwards."""
    with ExitStack() as stack:
        yield Wire(stack, tool)


needs_namespaces = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this kernel has no IPv6")
