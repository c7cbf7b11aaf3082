# SPDX-License-Identifier: Apache-2.0
"""The router between real kernels: three hosts, each on a link of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from live_mesh import LiveMesh
from live_rig import (
    ANSWER_S,
    AS_LONG_AS_IT_TAKES,
    PATIENCE_S,
    PYTHON,
    Namespace,
    Server,
    Star,
    digest,
    fetch,
    needs_ipv6,
    needs_namespaces,
    public_folder,
    star,
    wait_until,
)

pytestmark = [needs_namespaces, needs_ipv6]
FAR = "203.0.113.9"
"""An address of the third host, behind it."""


class Net:
    """Hosts a, b and c, the mesh in the middle, and its routes file."""

    def __init__(self, hosts: Star, folder: Path) -> None:
        self.middle = hosts.middle
        self.a, self.b, self.c = (
            hosts.host(f"10.{n}.0.2/24", f"fd0{n}::2/64", via=(f"10.{n}.0.1", f"fd0{n}::1"))
            for n in (1, 2, 3)
        )
        self.c.ip(f"addr add {FAR}/32 dev lo")
        self.c.ip("link set e0 mtu 1400")
        self.middle.ip("link set m2 mtu 1400")
        self.routes = folder / "routes.txt"
        self.routes.write_text(f"{FAR}/32 via 10.3.0.2\n10.66.0.0/16 prohibit\n")
        self._folder = folder

    def spec(self, **options: Any) -> Path:
        """Writes a spec with a router and two observers."""
        ports = [f"m{n - 1} 10.{n}.0.1/24 fd0{n}::1/64 mtu 1500" for n in (1, 2)]
        ports.append("m2 10.3.0.1/24 fd03::1/64 mtu 1400")
        config = {"ports": ports, "routes": str(self.routes), **options}
        spec = {
            "nfs": [
                {"use": "router", **AS_LONG_AS_IT_TAKES, "config": config},
                {"use": "flow_counter"},
            ],
            "ports": [{"afpacket": f"m{n}", "out": f"m{(n + 1) % 3}"} for n in range(3)],
        }
        path = self._folder / "mesh.json"
        path.write_text(json.dumps(spec))
        return path


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """Hosts and their links."""
    with public_folder() as folder, star() as hosts:
        yield Net(hosts, folder)


@pytest.fixture(scope="module")
def mesh(net: Net) -> Iterator[LiveMesh]:
    """A mesh that routes."""
    with ExitStack() as stack:
        made = LiveMesh(net.middle, str(net.spec(reachable_s=2)))
        stack.callback(made.close)
        made.wait_running()
        yield made


def ping(host: Namespace, address: str, *options: str) -> bool:
    """Says whether a host gets an answer."""
    return host.works("ping", "-c", "1", "-W", ANSWER_S, *options, address)


def words_of(host: Namespace, address: str, *options: str) -> str:
    """Returns what ping prints, errors and all."""
    line = host.command("ping", "-c", "1", "-w", ANSWER_S, *options, address)
    return subprocess.run(line, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("address", ["10.1.0.1", "fd01::1", "10.2.0.1", "fd02::1"])
def test_it_answers_for_its_own_addresses(net: Net, mesh: LiveMesh, address: str) -> None:
    assert ping(net.a, address)
    assert ping(net.a, address, "-s", "1200")


@pytest.mark.parametrize("address", ["10.2.0.2", "fd02::2", "10.3.0.2", "fd03::2", FAR])
def test_the_first_packet_to_a_host_arrives(net: Net, mesh: LiveMesh, address: str) -> None:
    assert ping(net.a, address), "a packet that waits for its next hop"


@pytest.mark.parametrize("offload", ["on", "off"])
@pytest.mark.parametrize("address", ["10.2.0.2", "fd02::2"])
def test_a_page_is_fetched(
    net: Net, mesh: LiveMesh, page: Path, address: str, offload: str
) -> None:
    for host in (net.a, net.b):
        switches = [x for name in ("tso", "gso", "gro", "tx", "rx") for x in (name, offload)]
        host.run("ethtool", "-K", "e0", *switches)
    server = Server(net.b, page)
    try:
        assert fetch(net.a, address) == digest(page)
    finally:
        server.close()


@pytest.mark.parametrize(("address", "gateway"), [(FAR, "10.1.0.1"), ("fd03::2", "fd01::1")])
def test_a_hop_that_is_the_last_is_told(
    net: Net, mesh: LiveMesh, address: str, gateway: str
) -> None:
    said = words_of(net.a, address, "-t", "1")
    assert gateway in said
    assert "Time to live exceeded" in said or "Hop limit" in said
    assert ping(net.a, address, "-t", "2")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("198.51.100.1", "Destination Net Unreachable"),
        ("2001:db8::1", "No route"),
        ("10.66.0.1", "Packet filtered"),
    ],
)
def test_a_sender_is_told_why(net: Net, mesh: LiveMesh, address: str, words: str) -> None:
    assert words in words_of(net.a, address)


@pytest.mark.parametrize("address", ["10.2.0.77", "fd02::77"])
def test_a_neighbour_that_is_not_there_is_unreachable(
    net: Net, mesh: LiveMesh, address: str
) -> None:
    assert "nreachable" in words_of(net.a, address)


@pytest.mark.parametrize("address", ["10.3.0.2", "fd03::2"])
def test_a_sender_learns_of_a_smaller_mtu(
    net: Net, mesh: LiveMesh, page: Path, address: str
) -> None:
    net.a.ip("route flush cache")
    large = "1472" if "." in address else "1452"
    said = words_of(net.a, address, "-M", "do", "-s", large)
    assert "mtu = 1400" in said or "mtu=1400" in said
    server = Server(net.c, page)
    try:
        assert fetch(net.a, address) == digest(page)
    finally:
        server.close()


@pytest.mark.parametrize("address", ["10.3.0.2", "10.1.0.1"])
@pytest.mark.parametrize("size", ["1472", "4000", "30000"])
def test_what_may_be_cut_is_cut(net: Net, mesh: LiveMesh, address: str, size: str) -> None:
    assert ping(net.a, address, "-M", "dont", "-s", size)


@pytest.mark.parametrize("address", ["fd03::2", "fd01::1"])
def test_fragments_of_hosts_are_put_together_and_cut_again(
    net: Net, mesh: LiveMesh, address: str
) -> None:
    assert ping(net.a, address, "-s", "4000")
    assert ping(net.c, "fd01::2", "-s", "4000")


def test_closed_ports_of_the_router_are_told(net: Net, mesh: LiveMesh) -> None:
    ask = f"import socket; socket.create_connection(('10.1.0.1', 9), timeout={PATIENCE_S})"
    done = subprocess.run(
        net.a.command(PYTHON, "-c", ask), capture_output=True, text=True, check=False
    )
    assert "refused" in done.stderr


def test_routes_are_read_again_and_bad_ones_change_nothing(net: Net, mesh: LiveMesh) -> None:
    net.c.ip("addr add 198.51.100.9/32 dev lo")
    good = net.routes.read_text() + "198.51.100.0/24 via fd03::2\n"
    net.routes.write_text(good)
    wait_until(lambda: "differ in IP version" in mesh.said(), "an error that is told")
    assert f"{net.routes}:3:21" in mesh.said()
    assert ping(net.a, FAR), "the running routes stay"
    assert not ping(net.a, "198.51.100.9", "-W", "1")
    net.routes.write_text(good.replace("fd03::2", "10.3.0.2"))
    wait_until(lambda: ping(net.a, "198.51.100.9", "-W", "1"), "another route")


def test_a_neighbour_that_got_another_card_is_found_again(net: Net, mesh: LiveMesh) -> None:
    assert ping(net.a, "10.2.0.2")
    assert ping(net.a, "fd02::2")
    net.b.run("ip", "link", "set", "e0", "address", "02:00:00:00:be:ef")
    for address in ("10.2.0.2", "fd02::2"):
        wait_until(lambda to=address: ping(net.a, to, "-W", "1"), "a neighbour")


def test_what_it_counted_is_in_the_report(net: Net, mesh: LiveMesh) -> None:
    report = mesh.stop()
    found = next(each["results"] for each in report["nfs"] if each["name"] == "router")
    assert found["error"] is None
    assert found["routes"] == 3
    for counter in ("forwarded", "echo_replies", "arp_replies", "nd_replies", "waited", "too_big"):
        assert found[counter] > 0, counter
    for counter in ("ttl_exceeded", "no_route", "refused_by_route", "unresolved"):
        assert found[counter] > 0, counter
    assert found["not_sent"] == found["bad_header"] == found["wrong_source"] == 0
    assert "10.3.0.2" in [row["address"] for row in found["neighbour_table"]]
