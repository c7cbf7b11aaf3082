# SPDX-License-Identifier: Apache-2.0
"""Real connections through AF_XDP and DPDK ports and bad links, alone and beside packet sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_rig import (
    PAGE_BYTES,
    Namespace,
    Server,
    Wire,
    digest,
    fetch,
    find_plugin,
    needs_namespaces,
    wire,
)
from patience import PATIENCE_S

pytestmark = needs_namespaces
AF_XDP = 44
"""Of the kernel; Python names it from 3.14 on."""


def why_no_afxdp() -> str | None:
    """Returns what is missing for AF_XDP, or None."""
    if find_plugin("libnfm_afxdp.so") is None:
        return "this build has no AF_XDP (libxdp-dev)"
    try:
        socket.socket(AF_XDP, socket.SOCK_RAW).close()
    except OSError as error:
        return f"this kernel opens no AF_XDP sockets: {error.strerror}"
    return None if os.geteuid() == 0 else "programs for XDP need root"


WHY_NO_AFXDP = why_no_afxdp()
needs_afxdp = pytest.mark.skipif(WHY_NO_AFXDP is not None, reason=WHY_NO_AFXDP or "")
needs_dpdk = pytest.mark.skipif(
    find_plugin("libnfm_dpdk.so") is None, reason="this build has no DPDK (libdpdk-dev)"
)


@pytest.fixture
def net(bridge_tool: Path) -> Iterator[Wire]:
    """Three namespaces in a row."""
    with wire(bridge_tool) as made:
        yield made


def finish_frames(host: Namespace, end: str) -> None:
    """Makes a host send whole frames: nobody finishes them behind an AF_XDP socket."""
    host.run("ethtool", "-K", end, "tx", "off", "tso", "off", "gso", "off")


def fetch_through(net: Wire, page: Path, *ports: str) -> list[dict[str, int]]:
    """Fetches the page in both directions; returns what the ports counted."""
    bridge = net.bridge(*ports)
    for client, host, address in (
        (net.left, net.right, "10.9.0.2"),
        (net.right, net.left, "10.9.0.1"),
    ):
        server = Server(host, page)
        try:
            assert fetch(client, address) == digest(page)
        finally:
            server.close()
    counted = bridge.stop()
    assert counted["pool_whole"]
    found: list[dict[str, int]] = counted["ports"]
    for port in found:
        assert port["tx_errors"] == port["tx_oversize"] == port["rx_errors"] == 0
        assert port["rx_bytes"] > PAGE_BYTES
    return found


@needs_afxdp
def test_pages_pass_between_two_sockets(net: Wire, page: Path):
    finish_frames(net.left, "l0")
    finish_frames(net.right, "r0")
    fetch_through(net, page, "afxdp:m0", "afxdp:m1")


@needs_afxdp
def test_segments_that_a_kernel_left_to_a_nic_are_made(net: Wire, page: Path):
    finish_frames(net.right, "r0")
    m0, m1 = fetch_through(net, page, "m0", "afxdp:m1")
    assert m0["rx_bytes"] / m0["rx_packets"] > 1600  # longer than any frame of the wire: GSO
    assert m1["tx_packets"] > m0["rx_packets"]  # go out in segments


@needs_dpdk
def test_pages_pass_between_two_devices(net: Wire, page: Path):
    finish_frames(net.left, "l0")
    finish_frames(net.right, "r0")
    devices = [f"dpdk:net_af_packet{i},iface=m{i}" for i in range(2)]
    fetch_through(net, page, *devices)


@needs_dpdk
def test_a_device_beside_a_packet_socket(net: Wire, page: Path):
    finish_frames(net.right, "r0")
    m0, m1 = fetch_through(net, page, "m0", "dpdk:net_af_packet1,iface=m1")
    assert m1["tx_packets"] > m0["rx_packets"]


def test_a_bad_link_slows_connections_and_breaks_none(net: Wire, page: Path):
    finish_frames(net.left, "l0")
    finish_frames(net.right, "r0")
    m0, m1 = fetch_through(net, page, "m0", "impair:m1")
    assert m1["tx_packets"] < 0.995 * m0["rx_packets"]  # 2 % lost, 0.5 % doubled


ENGINE = """
import json, pathlib, socket, subprocess, threading
import mesh
from mesh.ports import Port
from mesh.testing import packet, udp

for switch in pathlib.Path("/proc/sys/net/ipv6/conf").glob("*/disable_ipv6"):
    switch.write_text("1")
for command in ("add m0 type veth peer name l0", "set m0 up", "set l0 up"):
    subprocess.run(["ip", "link", *command.split()], check=True)
peer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
peer.bind(("l0", 0))
frame = packet(udp(b"x" * 58, "10.0.0.1", 5000, "10.0.0.2", 53), "10.0.0.1", "10.0.0.2", 17)
over = threading.Event()

def send():
    while not over.is_set():
        peer.send(frame)

sender = threading.Thread(target=send)
sender.start()
try:
    report = mesh.replay(
        Port.afxdp("m0"), ["flow_counter"], worker={"n_small": 8192}, max_packets=5000
    )
finally:
    over.set()
    sender.join()
stats = report.statistics
print(json.dumps([stats.packets, stats.bytes // stats.packets, stats.flows_opened]))
"""


@needs_afxdp
def test_an_engine_reads_from_a_socket():
    command = ["unshare", "-n", sys.executable, "-c", ENGINE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [5000, 100, 1]
