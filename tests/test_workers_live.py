# SPDX-License-Identifier: Apache-2.0
"""Two workers between real kernels: flows find their owner, whatever comes to which of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from live_mesh import LiveMesh
from live_rig import (
    Namespace,
    Server,
    Wire,
    digest,
    fetch,
    needs_namespaces,
    wait_until,
    wire,
)

from mesh import NF, EventBatch, on, replay

pytestmark = needs_namespaces
Start = Callable[..., LiveMesh]
FETCHES = 6
MOST = 40
TWO = ("--workers", "2")


@pytest.fixture
def net() -> Iterator[Wire]:
    """Three namespaces in a row."""
    with wire(Path()) as made:
        yield made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to fetch."""
    path = tmp_path_factory.mktemp("www") / "page"
    path.write_bytes(os.urandom(1 << 20))
    return path


@pytest.fixture
def start(net: Wire) -> Iterator[Start]:
    """Starts a mesh of two workers in the middle, and waits until packets pass."""
    with ExitStack() as stack:

        def begin(*arguments: str) -> LiveMesh:
            mesh = LiveMesh(net.middle, *TWO, *arguments)
            stack.callback(mesh.close)
            mesh.wait_running()
            return mesh

        yield begin


def workers(mesh: LiveMesh) -> list[dict[str, Any]]:
    """Returns what is known of each worker."""
    found = mesh.status()["workers"]
    return [found[name] for name in sorted(found)]


def runs_anew(mesh: LiveMesh, name: str, before: int) -> bool:
    """True when a process runs, and is not the one of that pid."""
    found = mesh.process(name)
    return found.get("pid") not in (before, None) and found["state"] == "running"


def fetch_many(
    ends: tuple[Namespace, Namespace, str],
    page: Path,
    is_enough: Callable[[], bool] = lambda: True,
) -> int:
    """Fetches a page over several connections, which have different owners; returns how many.

    Args:
        ends: client, server, and the server's address.
        page: what is fetched.
        is_enough: more connections are made until it is.
    """
    client, host, address = ends
    serving, n = Server(host, page), 0
    try:
        while n < FETCHES or not is_enough():
            assert n < MOST, "all connections have one owner"
            assert fetch(client, address) == digest(page)
            n += 1
    finally:
        serving.close()
    return n


def records(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the requests that http_log saw."""
    [found] = [nf["results"]["records"] for nf in report["nfs"] if nf["name"] == "http_log"]
    return list(found)


def test_the_kernel_spreads_packets_over_workers(net: Wire, page: Path, start: Start) -> None:
    mesh = start("--in", "m0", "--out", "m1", "--nf", "http_log")
    net.wait_for_ping("10.9.0.2")

    def each_has_a_share() -> bool:
        return min(worker["statistics"]["flows_opened"] for worker in workers(mesh)) > 1

    n = fetch_many((net.left, net.right, "10.9.0.2"), page)
    n += fetch_many((net.right, net.left, "10.9.0.1"), page, each_has_a_share)
    report = mesh.stop()
    assert [(s["method"], s["status"]) for s in records(report)] == [("GET", 200)] * n
    handed = report["counters"].get("share.handed_over", 0)
    assert handed < 20, "they come to their owners, but for those that were queued at the start"
    assert report["counters"]["forward.packets"] == report["statistics"]["packets"]


def test_a_port_of_one_queue_is_the_first_workers(net: Wire, page: Path, start: Start) -> None:
    mesh = start("--in", "m0", "--out", "tap:tp0", "--nf", "http_log")
    net.middle.ip("addr add 10.9.0.9/24 dev tp0")
    net.middle.ip("link set tp0 up")
    net.wait_for_ping("10.9.0.9")
    assert net.ping("10.9.0.9", "-s", "4000"), "fragments"

    def some_are_handed_over() -> bool:
        return bool(workers(mesh)[0]["counters"].get("share.handed_over"))

    n = fetch_many((net.left, net.middle, "10.9.0.9"), page, some_are_handed_over)
    report = mesh.stop()
    assert [(s["method"], s["status"]) for s in records(report)] == [("GET", 200)] * n
    assert report["counters"]["share.taken_over"] >= report["counters"]["share.handed_over"] > 0


def test_a_killed_worker_comes_back(net: Wire, page: Path, start: Start) -> None:
    mesh = start("--in", "m0", "--out", "m1", "--nf", "http_log")
    net.wait_for_ping("10.9.0.2")
    pids = {name: mesh.process(name)["pid"] for name in ("worker-0", "worker-1", "http_log")}
    os.kill(pids["worker-0"], signal.SIGKILL)
    wait_until(lambda: runs_anew(mesh, "worker-0", pids["worker-0"]), "another worker")
    net.wait_for_ping("10.9.0.2")
    fetch_many((net.left, net.right, "10.9.0.2"), page)
    for name in ("worker-1", "http_log"):
        assert mesh.process(name)["pid"] == pids[name]
    assert mesh.process("worker-0")["restarts"] == 1
    assert len(records(mesh.stop())) == FETCHES


class Count(NF):
    """Counts packets."""

    def __init__(self) -> None:
        self.n = 0

    @on("packet")
    def see(self, batch: EventBatch) -> None:
        self.n += len(batch)


def packets_in(path: Path) -> int:
    nf = Count()
    replay(path, [nf])
    return nf.n


def test_each_worker_captures_its_share_and_keeps_it_when_it_dies(
    net: Wire, page: Path, start: Start, tmp_path: Path
) -> None:
    ports = [
        {"afpacket": "m0", "out": "m1", "capture": str(tmp_path / "wire.pcapng")},
        {"afpacket": "m1", "out": "m0"},
    ]
    (tmp_path / "mesh.json").write_text(json.dumps({"ports": ports}))
    mesh = start(str(tmp_path / "mesh.json"))
    net.wait_for_ping("10.9.0.2")

    def each_has_a_share() -> bool:
        return min(worker["statistics"]["packets"] for worker in workers(mesh)) > 100

    fetch_many((net.left, net.right, "10.9.0.2"), page, each_has_a_share)
    pid = mesh.process("worker-1")["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: runs_anew(mesh, "worker-1", pid), "a new one")
    fetch_many((net.left, net.right, "10.9.0.2"), page)
    report = mesh.stop()
    written = report["counters"]["capture.written"]
    found = {path.name: packets_in(path) for path in tmp_path.glob("wire*")}
    assert set(found) == {"wire.pcapng", "wire.w1.pcapng", "wire.w1.1.pcapng"}
    assert found["wire.w1.1.pcapng"] > 100, "of the worker that was killed"
    assert found["wire.pcapng"] + found["wire.w1.pcapng"] == written


def test_an_nf_joins_and_leaves_at_all_workers(net: Wire, page: Path, start: Start) -> None:
    mesh = start("--in", "m0", "--out", "m1", "--nf", "flow_counter")
    net.wait_for_ping("10.9.0.2")
    added = mesh.ask("nf", "add", "http_log", "--mesh", "m")
    assert added is not None
    assert added["effective_from"] > 0
    fetch_many((net.left, net.right, "10.9.0.2"), page)
    removed = mesh.ask("nf", "remove", "http_log", "--mesh", "m")
    assert removed is not None
    assert len(removed["report"]["results"]["records"]) == FETCHES
    left = {"ring/flow_counter/w0", "ring/flow_counter/w1"}
    wait_until(lambda: {ring["ring"] for ring in mesh.status()["rings"]} == left, "its rings")
    asked = ("subscribe", "flow_counter", "udp.datagram", "--subscription", "seen", "--mesh", "m")
    assert mesh.ask(*asked) is not None
    fetch_many((net.left, net.right, "10.9.0.2"), page)


def test_translated_flows_stay_whole(net: Wire, page: Path, start: Start) -> None:
    [link] = json.loads(net.left.run("ip", "-j", "link", "show", "l0"))
    net.right.ip(f"neigh add 10.9.0.77 lladdr {link['address']} dev r0")
    nat = ["nat.external=10.9.0.77", "nat.inside=10.9.0.1/32"]
    settings = [word for each in nat for word in ("--set", each)]
    mesh = start("--in", "m0", "--out", "m1", "--nf", "nat", "--nf", "http_log", *settings)
    net.wait_for_ping("10.9.0.2")
    fetch_many((net.left, net.right, "10.9.0.2"), page)
    report = mesh.stop()
    assert [s["status"] for s in records(report)] == [200] * FETCHES, "both sides are one flow"
    [found] = [nf["results"] for nf in report["nfs"] if nf["name"] == "nat"]
    assert found["outbound"] >= FETCHES
    assert found["inbound"] == 0, "answers are no flows of their own"
