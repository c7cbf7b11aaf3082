# SPDX-License-Identifier: Apache-2.0
"""A mesh between real kernels: `nfmesh run --in m0 --out m1` is a bump in the wire."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from live_mesh import LiveMesh, results
from live_rig import (
    PAGE_BYTES,
    PATIENCE_S,
    Server,
    Wire,
    digest,
    fetch,
    needs_ipv6,
    needs_namespaces,
    wait_until,
    wire,
)

from mesh.testing import datagrams, write_capture

pytestmark = needs_namespaces
Start = Callable[..., LiveMesh]


@pytest.fixture
def net() -> Iterator[Wire]:
    """Three namespaces in a row."""
    with wire(Path()) as made:
        yield made


@pytest.fixture
def start(net: Wire) -> Iterator[Start]:
    """Starts the mesh in the middle, and waits until packets pass."""
    with ExitStack() as stack:

        def begin(*arguments: str) -> LiveMesh:
            mesh = LiveMesh(net.middle, *arguments)
            stack.callback(mesh.close)
            mesh.wait_running()
            return mesh

        yield begin


@pytest.mark.parametrize("offload", ["on", "off"])
def test_a_page_passes_and_is_seen(net: Wire, page: Path, start: Start, offload: str) -> None:
    for host, end in ((net.left, "l0"), (net.right, "r0")):
        switches = [x for name in ("tso", "gso", "gro", "tx", "rx") for x in (name, offload)]
        host.run("ethtool", "-K", end, *switches)
    mesh = start("--in", "m0", "--out", "m1", "--nf", "http_log")
    net.wait_for_ping("10.9.0.2")
    server = Server(net.right, page)
    try:
        assert fetch(net.left, "10.9.0.2") == digest(page)
    finally:
        server.close()
    report = mesh.stop()
    [seen] = results(report, "http_log")["records"]
    assert (seen["method"], seen["target"], seen["status"]) == ("GET", "/page", 200)
    assert report["counters"]["forward.packets"] == report["statistics"]["packets"]
    assert report["statistics"]["bytes"] > PAGE_BYTES


@needs_ipv6
def test_packets_pass_at_the_edge_of_the_mtu(net: Wire, start: Start) -> None:
    start("--in", "m0", "--out", "m1")
    net.wait_for_ping("10.9.0.2")
    net.wait_for_ping("fd09::2")
    for size in (0, 1, 18, 19, 1471, 1472):
        assert net.ping("10.9.0.2", "-M", "do", "-s", str(size))
    assert net.ping("10.9.0.2", "-s", "4000"), "fragments"
    assert net.ping("fd09::2", "-s", "4000"), "fragments"


def test_time_goes_on_on_a_quiet_link(net: Wire, start: Start) -> None:
    mesh = start("--in", "m0", "--out", "m1", "--nf", "flow_counter")
    assert net.ping("10.9.0.2")

    def now() -> tuple[int, int]:
        statistics = mesh.status()["workers"]["worker-0"].get("statistics", {})
        return statistics.get("now_ns", 0), statistics.get("packets", 0)

    wait_until(lambda: now()[1] > 0, "packets")
    for host, end in ((net.left, "l0"), (net.right, "r0")):
        host.speak_ipv6(False, end)
    since = [now()]

    def goes_on_alone() -> bool:
        at, packets = now()
        if packets != since[0][1]:
            since[0] = at, packets
        return at > since[0][0] + 2_000_000_000

    wait_until(goes_on_alone, "event time without packets")


def test_the_link_of_a_port_is_told(net: Wire, start: Start) -> None:
    mesh = start("--in", "m0", "--out", "m1")
    net.wait_for_ping("10.9.0.2")
    up = [1, 1]
    wait_until(lambda: [p["counters"]["link_up"] for p in mesh.ports()] == up, "links")
    net.middle.ip("link set m1 down")
    wait_until(lambda: mesh.ports()[1]["counters"]["link_up"] == 0, "a link that is down")
    net.middle.ip("link set m1 up")
    net.wait_for_ping("10.9.0.2")
    wait_until(lambda: mesh.ports()[1]["counters"]["link_changes"] == 2, "a link that is back")
    assert [p["source"] for p in mesh.ports()] == ["afpacket:m0", "afpacket:m1"]


JUDGE = """
import os, time
from mesh import NF, on

class Judge(NF):
    \"\"\"Lets all pass but what is sent to port 7.\"\"\"
    name = "judge"

    def start(self, ctx):
        while os.path.exists({away!r}):
            time.sleep(0.01)

    @on("packet", mode="inline")
    def judge(self, batch):
        batch.drop(batch.dst_port == 7)
"""


@dataclass
class Judged:
    """A mesh with an inline NF that stays away as long as a file is there."""

    mesh: LiveMesh
    away: Path


@pytest.fixture
def judged(net: Wire) -> Iterator[Callable[[str], Judged]]:
    """Starts a mesh with an inline NF of that policy."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="nfmesh-"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        nf = folder / "judge.py"
        away = folder / "away"
        nf.write_text(JUDGE.format(away=str(away)))
        nf.chmod(0o644)

        def begin(fail: str) -> Judged:
            ports = [{"afpacket": "m0", "out": "m1"}, {"afpacket": "m1", "out": "m0"}]
            nfs = [{"use": str(nf), "fail": fail}, {"use": "flow_counter"}]
            spec = folder / "mesh.yaml"
            patient = {"run": 600, "start": 600}  # with a judge that stands still
            spec.write_text(json.dumps({"nfs": nfs, "ports": ports, "patience": patient}))
            mesh = LiveMesh(net.middle, str(spec))
            stack.callback(mesh.close)
            mesh.wait_running()
            net.wait_for_ping("10.9.0.2")
            return Judged(mesh, away)

        yield begin


def test_packets_pass_while_an_open_judge_is_killed(
    net: Wire, judged: Callable[[str], Judged]
) -> None:
    made = judged("open")
    mesh = made.mesh
    for times in (1, 2):
        before = mesh.counters().get("inline.failed_open", 0)
        made.away.touch()
        os.kill(mesh.process("judge")["pid"], signal.SIGKILL)
        assert net.ping("10.9.0.2", "-c", "5", "-i", "0.01")
        wait_until(
            lambda n=before: mesh.counters().get("inline.failed_open", 0) > n,
            "packets that take the policy",
        )
        made.away.unlink()
        wait_until(
            lambda n=times: (
                mesh.process("judge").get("restarts") == n
                and mesh.process("judge").get("state") == "running"
                and mesh.process("judge").get("phase") == "attached"
            ),
            "a judge that is back",
        )
    assert net.ping("10.9.0.2", "-c", "5", "-i", "0.01")
    assert mesh.ask("nf", "remove", "judge", "--mesh", "m") is not None
    assert net.ping("10.9.0.2", "-c", "5", "-i", "0.01")


def test_packets_wait_for_a_closed_judge_in_vain(
    net: Wire, judged: Callable[[str], Judged]
) -> None:
    mesh = judged("closed").mesh
    pid = mesh.process("judge")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert not net.ping("10.9.0.2", "-W", "1")
        wait_until(lambda: mesh.counters().get("inline.failed_closed", 0) > 0, "the policy")
    finally:
        os.kill(pid, signal.SIGCONT)
    net.wait_for_ping("10.9.0.2")
    assert mesh.counters()["inline.late"] > 0


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="no iperf3 (Debian: iperf3)")
@pytest.mark.parametrize("options", [["-P", "4"], ["-R"], ["-u", "-b", "50M", "-l", "8000"]])
def test_iperf3_runs_to_its_end(net: Wire, start: Start, options: list[str]) -> None:
    start("--in", "m0", "--out", "m1", "--nf", "flow_counter")
    net.wait_for_ping("10.9.0.2")
    server = subprocess.Popen(net.right.command("iperf3", "-s", "-1"), stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: ":5201" in net.right.run("ss", "-ltn"), "iperf3")
        net.left.run("iperf3", "-c", "10.9.0.2", "-t", "1", *options)
        server.wait(timeout=PATIENCE_S)
    finally:
        server.kill()
        server.wait()


def test_a_missing_interface_is_named(net: Wire) -> None:
    mesh = LiveMesh(net.middle, "--in", "m0", "--out", "nosuch0")
    try:
        wait_until(lambda: "nosuch0: no such interface" in mesh.said(), "an error")
    finally:
        mesh.close()


def test_a_capture_is_sent_to_an_interface_and_the_run_ends(
    net: Wire, start: Start, tmp_path: Path
) -> None:
    frames = datagrams([("client", b"x" * 20)] * 20_000)
    write_capture(tmp_path / "in.pcap", frames)
    before = received(net, "l0")
    mesh = LiveMesh(net.middle, "--in", str(tmp_path / "in.pcap"), "--out", "m0")
    try:
        report = mesh.wait()
    finally:
        mesh.close()
    assert received(net, "l0") - before >= len(frames)
    assert report["counters"]["forward.packets"] == len(frames)
    assert not {"forward.full", "port.missed"} & report["counters"].keys()


def received(net: Wire, end: str) -> int:
    """Packets that the left host has received."""
    [link] = json.loads(net.left.run("ip", "-s", "-j", "link", "show", end))
    return int(link["stats64"]["rx"]["packets"])
