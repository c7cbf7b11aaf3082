# SPDX-License-Identifier: Apache-2.0
"""Translated connections between real kernels: nat and load_balancer as processes of their own.

client 10.77.0.2, .3 ---- m0 [mesh] m1 ---- server 198.51.100.80, .81
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from live_mesh import LiveMesh, results
from live_rig import (
    AS_LONG_AS_IT_TAKES,
    PAGE_BYTES,
    PATIENCE_S,
    PYTHON,
    Namespace,
    Server,
    Star,
    digest,
    fetch,
    make_page,
    needs_namespaces,
    public_folder,
    star,
    wait_until,
)

pytestmark = needs_namespaces
OUTER, VIRTUAL = "198.51.100.1", "198.51.100.50"
"""The translator's address, and the balancer's."""
PATIENT = f"PATIENCE_S = {PATIENCE_S}\n"
REFUSED = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(PATIENCE_S)
    s.connect(("198.51.100.80", 9))
    s.send(b"anybody?")
    try:
        s.recv(1)
    except ConnectionRefusedError:
        print("refused")
"""
HAIRPIN = """
import socket
def bound(address, port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(PATIENCE_S)
    s.bind((address, port))
    return s
a, b = bound("10.77.0.2", 5000), bound("10.77.0.3", 6000)
b.sendto(b"here I am", ("198.51.100.80", 7))
for said in (b"once", b"twice"):
    a.sendto(said, ("198.51.100.1", 6000))
    heard, seen_as = b.recvfrom(100)
    b.sendto(heard.upper(), seen_as)
    print(*seen_as, *a.recvfrom(100))
"""
WHO = """
import socket, socketserver
class Who(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(self.connection.getsockname()[0].encode() + b"\\n")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128
server = Server(("", 8080), Who)
print("ready", flush=True)
server.serve_forever()
"""
ASK = """
import socket, sys
def connect():
    s = socket.create_connection(("198.51.100.50", 8080), timeout=PATIENCE_S)
    return s, s.makefile("rw")
def ask(f):
    print("who", file=f, flush=True)
    return f.readline().strip()
kept = []
while True:
    word = sys.stdin.readline().strip()
    if word == "new":
        kept.append(connect())
        print(ask(kept[-1][1]), flush=True)
    elif word == "old":
        print(*(ask(f) for _, f in kept), flush=True)
    else:
        break
"""
CHECKER = '''
from ipaddress import IPv4Address, IPv6Address
from mesh import NF, Event, on

class Health(Event, name="backend.health"):
    """A backend's state, as a checker sees it."""

    address: IPv4Address | IPv6Address
    port: int
    state: str

class Checker(NF):
    """Drains a backend when it hears a packet to port 9999."""

    name = "checker"
    publishes = (Health,)

    @on("packet.udp", where="dst port 9999")
    def told(self, batch):
        self.publish(Health(address=IPv4Address("198.51.100.80"), port=0, state="drain"))
'''
Start = Callable[..., LiveMesh]


class Net:
    """Two hosts on the wire, as if the mesh were not there but for its addresses."""

    def __init__(self, hosts: Star) -> None:
        self.middle = hosts.middle
        self.client = hosts.host("10.77.0.2/24", "10.77.0.3/24")
        self.server = hosts.host("198.51.100.80/24", "198.51.100.81/24")
        client, server = self.client.mac("e0"), self.server.mac("e0")
        self.client.ip("route add 198.51.100.0/24 dev e0")
        for address in ("198.51.100.80", VIRTUAL, OUTER):
            self.client.ip(f"neigh add {address} lladdr {server} dev e0")
        self.server.ip(f"neigh add {OUTER} lladdr {client} dev e0")
        self.server.ip("route add 10.77.0.0/24 dev e0")
        self.server.ip(f"neigh add 10.77.0.2 lladdr {client} dev e0")


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """Two hosts around the mesh."""
    with star() as hosts:
        yield Net(hosts)


@pytest.fixture
def start(net: Net) -> Iterator[Start]:
    """Starts the mesh with NFs, and waits until packets pass."""
    with ExitStack() as stack:
        folder = stack.enter_context(public_folder())

        def begin(*nfs: dict[str, Any], code: str = "") -> LiveMesh:
            (folder / "checker.py").write_text(code)
            ports = [{"afpacket": "m0", "out": "m1"}, {"afpacket": "m1", "out": "m0"}]
            spec = folder / "mesh.json"
            spec.write_text(json.dumps({"nfs": nfs, "ports": ports}))
            mesh = LiveMesh(net.middle, str(spec))
            stack.callback(mesh.close)
            mesh.wait_running()
            ping = ("ping", "-c", "1", "-W", "1", "198.51.100.80")
            wait_until(lambda: net.client.works(*ping), f"a ping: {mesh.said()}")
            return mesh

        yield begin


def python(where: Namespace, code: str) -> str:
    """Runs a program on a host."""
    return where.run(PYTHON, "-c", PATIENT + code)


NAT = {
    "use": "nat",
    **AS_LONG_AS_IT_TAKES,
    "config": {"external": OUTER, "inside": "10.77.0.0/24"},
}


def test_connections_errors_and_hairpins_through_nat(
    net: Net, start: Start, tmp_path: Path
) -> None:
    page = make_page(tmp_path)
    mesh = start({**NAT, "config": {**NAT["config"], "filtering": "endpoint"}})
    server = Server(net.server, page)
    try:
        assert fetch(net.client, "198.51.100.80") == digest(page)
    finally:
        server.close()
    assert python(net.client, REFUSED) == "refused\n", "an ICMP error, translated"
    answers = python(net.client, HAIRPIN).splitlines()
    assert answers == [f"{OUTER} 5000 {said} ('{OUTER}', 6000)" for said in ("b'ONCE'", "b'TWICE'")]
    report = mesh.stop()
    found = results(report, "nat")
    assert found["hairpin"] == 1
    assert found["mappings_made"] >= 5
    assert report["statistics"]["bytes"] > PAGE_BYTES
    assert report["counters"].get("inline.bad_verdict", 0) == 0


class Asker:
    """A client that keeps its connections."""

    def __init__(self, where: Namespace) -> None:
        line = where.command(PYTHON, "-u", "-c", PATIENT + ASK)
        self._process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def say(self, word: str) -> list[str]:
        """Returns which backends answered: of a new connection, or of the old ones."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(word, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().split()

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


def test_connections_are_spread_and_drained(net: Net, start: Start) -> None:
    backends = [{"address": "198.51.100.80"}, {"address": "198.51.100.81"}]
    service = {"address": VIRTUAL, "port": 8080, "backends": backends}
    mesh = start(
        {"use": "load_balancer_by_event", **AS_LONG_AS_IT_TAKES, "config": {"services": [service]}},
        {"use": "checker.py"},
        code=CHECKER,
    )
    line = net.server.command(PYTHON, "-u", "-c", WHO)
    server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    asker = Asker(net.client)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        first = [name for _ in range(40) for name in asker.say("new")]
        assert set(first) == {"198.51.100.80", "198.51.100.81"}
        say = "import socket; socket.socket(2, 2).sendto(b'x', ('198.51.100.80', 9999))"
        python(net.client, say)
        in_a_row = [0]

        def is_drained() -> bool:
            [name] = asker.say("new")
            first.append(name)
            in_a_row[0] = in_a_row[0] + 1 if name == "198.51.100.81" else 0
            return in_a_row[0] == 30

        wait_until(is_drained, "a backend that gets no new connections")
        assert asker.say("old") == first, "those that it has stay"
    finally:
        asker.close()
        server.kill()
        server.communicate()
    report = mesh.stop()
    rows = results(report, "load_balancer_by_event")["backends"]
    assert [row["state"] for row in rows] == ["drain", "up"]
    assert sum(row["flows"] for row in rows) == len(first)


def test_nat_and_router_make_a_gateway(tmp_path: Path) -> None:
    page = make_page(tmp_path)
    with ExitStack() as stack:
        hosts = stack.enter_context(star())
        folder = stack.enter_context(public_folder())
        client = hosts.host("10.77.0.2/24", via=("10.77.0.1",))
        outside = hosts.host("198.51.100.80/24")
        ports = [{"afpacket": "m0", "out": "m1"}, {"afpacket": "m1", "out": "m0"}]
        router = {"ports": "m0 10.77.0.1/24; m1 198.51.100.1/24"}
        routing = {"use": "router", **AS_LONG_AS_IT_TAKES, "config": router}
        nfs = [NAT, routing, {"use": "flow_counter"}]
        spec = folder / "mesh.json"
        spec.write_text(json.dumps({"nfs": nfs, "ports": ports}))
        mesh = LiveMesh(hosts.middle, str(spec))
        stack.callback(mesh.close)
        mesh.wait_running()
        ping = ("ping", "-c", "1", "-W", "1", "198.51.100.80")
        wait_until(lambda: client.works(*ping), f"a ping: {mesh.said()}")
        server = Server(outside, page)
        stack.callback(server.close)
        assert fetch(client, "198.51.100.80") == digest(page)
        assert python(client, REFUSED) == "refused\n", "an ICMP error, translated and routed"
        assert client.works("ping", "-c", "1", "-s", "4000", "198.51.100.80"), "fragments"
        report = mesh.stop()
    assert results(report, "nat")["mappings_made"] >= 3
    found = results(report, "router")
    assert found["forwarded"] > PAGE_BYTES / 65536
    assert found["bad_header"] == found["martian"] == found["no_route"] == 0
