# SPDX-License-Identifier: Apache-2.0
"""One chain, unchanged, on ports of every kind: firewall, ids and nat between two hosts.

client 10.77.0.2 ---- m0 [chain] m1 ---- server 198.51.100.80
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from live_mesh import LiveMesh, results
from live_rig import (
    ANSWER_S,
    AS_LONG_AS_IT_TAKES,
    ROOT,
    Namespace,
    Server,
    Star,
    digest,
    fetch,
    find_plugin,
    needs_namespaces,
    public_folder,
    star,
    wait_until,
)
from pcap_file import frames_of

from mesh.testing import Frame, conversation, write_capture

CLIENT, SERVER, EXTERNAL = "10.77.0.2", "198.51.100.80", "198.51.100.1"
STEP_NS = 150_000_000
"""Between frames of a capture: an answer comes when what it answers has passed."""
FIRST_NS = 2_000_000_000
"""The same for the first frame, whose NFs have just begun."""
EXAMPLE = ROOT / "examples/live"
EAL = "--no-huge -m 256 --no-pci --no-shconf --no-telemetry --log-level=error"
PORTS: dict[str, list[dict[str, Any]]] = {
    "afpacket": [{"afpacket": "m0", "out": 1}, {"afpacket": "m1", "out": 0}],
    "afxdp": [{"afxdp": "m0", "out": 1}, {"afxdp": "m1", "out": 0}],
    "tap": [{"tap": "t0", "out": 1}, {"tap": "t1", "out": 0}],
    "dpdk": [
        {"dpdk": {"device": "net_af_packet0,iface=m0", "eal": EAL}, "out": 1},
        {"dpdk": {"device": "net_af_packet1,iface=m1"}, "out": 0},
    ],
}


def why_not(kind: str) -> str | None:
    """Returns what is missing on this machine, or None."""
    if shutil.which("curl") is None:
        return "no curl"
    if kind == "dpdk" and find_plugin("libnfm_dpdk.so") is None:
        return "this build has no DPDK (libdpdk-dev)"
    if kind == "afxdp" and find_plugin("libnfm_afxdp.so") is None:
        return "this build has no AF_XDP (libxdp-dev)"
    if kind in ("afxdp", "dpdk") and os.geteuid() != 0:
        return f"{kind} needs root"
    if kind == "tap" and not Path("/dev/net/tun").exists():
        return "no /dev/net/tun (module tun)"
    return None


def chain(folder: Path, ports: list[dict[str, Any]]) -> Path:
    """Writes the chain of the example with other ports."""
    spec = yaml.safe_load((EXAMPLE / "chain.yaml").read_text())
    for nf in spec["nfs"]:
        nf |= AS_LONG_AS_IT_TAKES
        if nf["use"] == "ids":
            rules = folder / "ids.rules"
            rules.write_bytes((EXAMPLE / "ids.rules").read_bytes())
            nf["config"] |= {"rules": str(rules)}
    path = folder / "chain.json"
    path.write_text(json.dumps(spec | {"ports": ports}))
    return path


class Net:
    """A client and a server with the mesh between them."""

    def __init__(self, hosts: Star) -> None:
        self.middle = hosts.middle
        self.client, self.server = hosts.host(f"{CLIENT}/24"), hosts.host(f"{SERVER}/24")
        macs = [host.mac("e0") for host in hosts.hosts]
        self.client.ip("route add 198.51.100.0/24 dev e0")
        self.client.ip(f"neigh add {SERVER} lladdr {macs[1]} dev e0")
        self.server.ip(f"neigh add {EXTERNAL} lladdr {macs[0]} dev e0")

    def finish_frames(self) -> None:
        """Makes both hosts send whole frames, with checksums."""
        for host in (self.client, self.server):
            host.run("ethtool", "-K", "e0", "tx", "off", "tso", "off", "gso", "off")

    def bridge_taps(self) -> None:
        """Joins each tap with the link of a host, by a bridge of the kernel."""
        for n in (0, 1):
            self.middle.ip(f"link set t{n} master b{n}")
            self.middle.ip(f"link set t{n} up")

    def make_bridges(self) -> bool:
        """Makes those bridges; False: this kernel has none."""
        for n in (0, 1):
            if not self.middle.works("ip", "link", "add", f"b{n}", "type", "bridge"):
                return False
            self.middle.ip(f"link set m{n} master b{n}")
            self.middle.ip(f"link set b{n} up")
        return True


@pytest.fixture
def net() -> Iterator[Net]:
    """Two hosts around the mesh."""
    with star() as hosts:
        yield Net(hosts)


def curl(host: Namespace, what: str, patience: str = "1") -> bool:
    """Says whether a host gets an answer over HTTP, within so many seconds."""
    words = ("-s", "-o", "/dev/null", "--max-time", patience, "--path-as-is", what)
    line = host.command("curl", *words)
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


@needs_namespaces
@pytest.mark.parametrize("kind", PORTS)
def test_the_chain_between_real_kernels(net: Net, page: Path, kind: str) -> None:
    reason = why_not(kind)
    if reason is not None:
        pytest.skip(reason)
    if kind == "tap" and not net.make_bridges():
        pytest.skip("this kernel has no bridges (module bridge)")
    if kind in ("afxdp", "dpdk"):
        net.finish_frames()
    with ExitStack() as stack:
        folder = stack.enter_context(public_folder())
        mesh = LiveMesh(net.middle, str(chain(folder, PORTS[kind])))
        stack.callback(mesh.close)
        mesh.wait_running()
        if kind == "tap":
            net.bridge_taps()
        ping = ("ping", "-c", "1", "-W", "1", SERVER)
        wait_until(lambda: net.client.works(*ping), f"a ping: {mesh.said()}")
        server = Server(net.server, page)
        stack.callback(server.close)
        assert fetch(net.client, SERVER) == digest(page)
        assert not curl(net.client, f"http://{SERVER}:8080/../../etc/passwd"), "an attack"
        assert curl(net.client, f"http://{SERVER}:8080/page", ANSWER_S), "others after it"
        assert not curl(net.client, f"http://{SERVER}:9/"), "a port that is closed by a rule"
        check_results(mesh.stop())


def check_results(report: dict[str, Any]) -> None:
    """Checks what each NF saw."""
    assert results(report, "firewall")["accepted"] >= 4
    assert results(report, "firewall")["dropped"] >= 1
    assert len(results(report, "ids")["alerts"]) == 1
    nat = results(report, "nat")
    assert nat["mappings_made"] >= 4
    assert {row["external"].partition(":")[0] for row in nat["table"]} <= {EXTERNAL}
    assert [each["errors"] for each in report["nfs"]] == [[], [], []]


def through_nat(request: bytes, port: int, number: int) -> list[Frame]:
    """A conversation as it is on either side of the translator: its client, and who it seems."""
    said = [("client", request), ("server", b"HTTP/1.0 200 OK\r\n\r\nhello")]
    start = {
        "start_ns": 1_700_000_000_000_000_000 + number * 12 * STEP_NS,
        "step_ns": STEP_NS,
    }
    inside, outside = (
        conversation(said, client=(address, 40000 + number), server=(SERVER, port), **start)
        for address in (CLIENT, EXTERNAL)
    )
    own = ip_address(CLIENT).packed
    return [a if a.data[26:30] == own else b for a, b in zip(inside, outside, strict=True)]


def test_the_chain_over_captures(tmp_path: Path) -> None:
    first, *frames = through_nat(b"GET /page HTTP/1.0\r\n\r\n", 8080, 0)
    frames.insert(0, replace(first, ts_ns=first.ts_ns - FIRST_NS))
    frames += through_nat(b"GET /../../etc/passwd HTTP/1.0\r\n\r\n", 8080, 1)
    frames += through_nat(b"GET /page HTTP/1.0\r\n\r\n", 9, 2)
    with public_folder() as folder:
        source, out = folder / "in.pcapng", folder / "out.pcap"
        write_capture(source, frames)
        ports = [{"pcap": str(source), "out": 1, "replay": {"speed": 1}}, {"record": str(out)}]
        mesh = LiveMesh(None, str(chain(folder, ports)))
        try:
            report = mesh.wait()
        finally:
            mesh.close()
        passed = [frame[26:] for frame in frames_of(out)]
    assert len(results(report, "ids")["alerts"]) == 1
    by_port = {number: [f for f in passed if port_of(f) == 40000 + number] for number in range(3)}
    whole = [frame.data[26:] for frame in frames if port_of(frame.data[26:]) == 40000]
    assert len(by_port[0]) == len(whole)
    hosts = {CLIENT, EXTERNAL, SERVER}
    assert {str(ip_address(f[at : at + 4])) for f in by_port[0] for at in (0, 4)} == hosts
    assert not any(b"passwd" in f for f in by_port[1]), "an attack"
    assert by_port[2] == []


def port_of(packet: bytes) -> int:
    """The client's port of a packet, from its addresses on."""
    return max(int.from_bytes(packet[8:10], "big"), int.from_bytes(packet[10:12], "big"))
