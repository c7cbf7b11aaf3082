# SPDX-License-Identifier: Apache-2.0
"""A bump in the wire between real kernels: what one host sends is what the other one gets."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_rig import (
    FETCH,
    PAGE_BYTES,
    PATIENCE_S,
    PYTHON,
    Namespace,
    Server,
    Wire,
    digest,
    fetch,
    needs_ipv6,
    needs_namespaces,
    wait_until,
    wire,
)

pytestmark = needs_namespaces


@pytest.fixture
def net(bridge_tool: Path) -> Iterator[Wire]:
    """Three namespaces in a row."""
    with wire(bridge_tool) as made:
        yield made


@pytest.mark.parametrize("block_ms", ["0", "1"])
@pytest.mark.parametrize("offload", ["on", "off"])
def test_a_page_arrives_whole(net: Wire, page: Path, offload: str, block_ms: str) -> None:
    for host, end in ((net.left, "l0"), (net.right, "r0")):
        switches = [x for name in ("tso", "gso", "gro", "tx", "rx") for x in (name, offload)]
        host.run("ethtool", "-K", end, *switches)
    bridge = net.bridge("m0", "m1", block_ms)
    server = Server(net.right, page)
    try:
        assert fetch(net.left, "10.9.0.2") == digest(page)
    finally:
        server.close()
    counted = bridge.stop()
    m0, m1 = counted["ports"]
    assert counted["dropped"] == 0
    assert counted["pool_whole"]
    assert m1["rx_bytes"] > PAGE_BYTES
    assert m0["tx_packets"] == m1["rx_packets"]
    for port in (m0, m1):
        assert [port[f"rx_{what}"] for what in ("oversize", "missed", "errors")] == [0, 0, 0]
        assert [port[f"tx_{what}"] for what in ("oversize", "errors")] == [0, 0]
    mean = m1["rx_bytes"] / m1["rx_packets"]
    assert (mean > 3000) == (offload == "on")


@needs_ipv6
def test_packets_pass_at_the_edge_of_the_mtu(net: Wire) -> None:
    bridge = net.bridge()
    net.wait_for_ping("10.9.0.2")
    net.wait_for_ping("fd09::2")
    for size in (0, 1, 18, 19, 1471, 1472):
        assert net.ping("10.9.0.2", "-M", "do", "-s", str(size))
    assert net.ping("fd09::2", "-M", "do", "-s", "1452")
    assert net.ping("10.9.0.2", "-s", "4000"), "fragments"
    assert net.ping("fd09::2", "-s", "4000"), "fragments"
    counted = bridge.stop()
    assert counted["dropped"] == 0
    assert counted["ports"][0]["rx_packets"] == counted["ports"][1]["tx_packets"]


def test_a_smaller_mtu_on_one_side_is_counted(net: Wire) -> None:
    net.middle.ip("link set m1 mtu 1400")
    bridge = net.bridge()
    net.wait_for_ping("10.9.0.2")
    assert net.ping("10.9.0.2", "-M", "do", "-s", "1372")
    assert not net.ping("10.9.0.2", "-M", "do", "-s", "1373", "-W", "1")
    m0, m1 = bridge.stop()["ports"]
    assert m1["tx_oversize"] == 1
    assert m0["rx_packets"] == m1["tx_packets"] + 1


@pytest.mark.parametrize("block_ms", ["0", "1"])
def test_vlan_tags_pass(net: Wire, page: Path, block_ms: str) -> None:
    if not net.left.works("ip", "link", "add", "link", "l0", "name", "probe", "type", "vlan",
                          "id", "5"):  # fmt: skip
        pytest.skip("this kernel has no VLAN interfaces (module 8021q); the C tests send tags")
    for number, (host, end) in enumerate(((net.left, "l0"), (net.right, "r0")), 1):
        host.ip(f"link add link {end} name outer type vlan proto 802.1ad id 7")
        host.ip("link add link outer name inner type vlan id 1000")
        for name, net_number in (("outer", 10), ("inner", 11)):
            host.ip(f"link set {name} up")
            host.ip(f"addr add 10.{net_number}.0.{number}/24 dev {name}")
    bridge = net.bridge("m0", "m1", block_ms)
    server = Server(net.right, page)
    try:
        for address in ("10.10.0.2", "10.11.0.2"):
            net.wait_for_ping(address)
            assert fetch(net.left, address) == digest(page)
    finally:
        server.close()
    assert bridge.stop()["ports"][0]["tx_errors"] == 0


def test_a_connection_outlives_a_link_that_falls(net: Wire, page: Path) -> None:
    slow = "tc qdisc add dev r0 root tbf rate 80mbit burst 128kb latency 50ms"
    if not net.right.works(*slow.split()):
        pytest.skip("this kernel has no token bucket to slow a host down (module sch_tbf)")
    bridge = net.bridge()
    server = Server(net.right, page)
    line = net.left.command(PYTHON, "-c", FETCH, "10.9.0.2")
    client = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(2):
            before = received(net.left, "l0")
            wait_until(lambda at=before: received(net.left, "l0") > at + 100_000, "data")
            net.middle.ip("link set m0 down")
            net.middle.ip("link set m0 up")
        out, _ = client.communicate(timeout=PATIENCE_S)
        assert out.strip() == digest(page)
    finally:
        client.kill()
        server.close()
    assert bridge.stop()["pool_whole"]


def received(host: Namespace, interface: str) -> int:
    """Returns the bytes that an interface has received."""
    return int(host.run("cat", "/proc/net/dev").split(f"{interface}:")[1].split()[0])


def test_an_interface_that_went_away_is_taken_again(net: Wire) -> None:
    bridge = net.bridge()
    net.wait_for_ping("10.9.0.2")
    net.middle.ip("link del m0")
    assert not net.ping("10.9.0.2", "-W", "1")
    net.plug(net.left, "l0", "m0", 1)
    net.wait_for_ping("10.9.0.2")
    m0, m1 = bridge.stop()["ports"]
    assert (m0["link_changes"], m0["link_up"], m1["link_changes"]) == (2, 1, 0)


@pytest.mark.parametrize("offload", ["on", "off"])
def test_a_tap_port_is_a_host_of_its_own(net: Wire, page: Path, offload: str) -> None:
    net.left.run("ethtool", "-K", "l0", "gso", offload, "tso", offload)
    bridge = net.bridge("m0", "tap:tp0")
    net.middle.ip("addr add 10.9.0.3/24 dev tp0")
    server = Server(net.middle, page)
    try:
        assert fetch(net.left, "10.9.0.3") == digest(page)
    finally:
        server.close()
    m0, tap = bridge.stop()["ports"]
    assert tap["rx_bytes"] > PAGE_BYTES
    assert tap["rx_bytes"] / tap["rx_packets"] > 3000
    assert m0["tx_errors"] + m0["tx_oversize"] + tap["tx_errors"] == 0


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="no iperf3 (Debian: iperf3)")
@pytest.mark.parametrize("options", [[], ["-R"], ["-P", "4"], ["-u", "-b", "50M", "-l", "8000"]])
def test_iperf3_runs_to_its_end(net: Wire, options: list[str]) -> None:
    bridge = net.bridge()
    net.wait_for_ping("10.9.0.2")
    server = subprocess.Popen(net.right.command("iperf3", "-s", "-1"), stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: ":5201" in net.right.run("ss", "-ltn"), "iperf3")
        net.left.run("iperf3", "-c", "10.9.0.2", "-t", "1", *options)
        server.wait(timeout=PATIENCE_S)
    finally:
        server.kill()
        server.wait()
    counted = bridge.stop()
    assert counted["pool_whole"]
    assert counted["ports"][0]["tx_oversize"] + counted["ports"][1]["tx_oversize"] == 0
