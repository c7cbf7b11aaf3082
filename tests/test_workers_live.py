# SPDX-License-Identifier: Apache-2.0
"""Two workers between real kernels: flows find their owner, whatever comes to which of them."""

from __future__ import annotations

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
    make_page,
    needs_namespaces,
    wait_until,
    wire,
)

pytestmark = needs_namespaces
Start = Callable[..., LiveMesh]
FETCHES = 12
TWO = ("--workers", "2")


@pytest.fixture
def net() -> Iterator[Wire]:
    """Three namespaces in a row."""
    with wire(Path()) as made:
        yield made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to fetch."""
    return make_page(tmp_path_factory.mktemp("www"))


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


def fetch_many(client: Namespace, server: Namespace, address: str, page: Path) -> None:
    """Fetches a page over several connections, which have different owners."""
    serving = Server(server, page)
    try:
        for _ in range(FETCHES):
            assert fetch(client, address) == digest(page)
    finally:
        serving.close()


def records(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the requests that http_log saw."""
    [found] = [nf["results"]["records"] for nf in report["nfs"] if nf["name"] == "http_log"]
    return list(found)


def test_the_kernel_spreads_packets_over_workers(net: Wire, page: Path, start: Start) -> None:
    mesh = start("--in", "m0", "--out", "m1", "--nf", "http_log")
    net.wait_for_ping("10.9.0.2")
    fetch_many(net.left, net.right, "10.9.0.2", page)
    fetch_many(net.right, net.left, "10.9.0.1", page)
    wait_until(lambda: all(w.get("statistics", {}).get("packets") for w in workers(mesh)), "both")
    flows = [worker["statistics"]["flows_opened"] for worker in workers(mesh)]
    assert min(flows) > 1, "each has a share"
    report = mesh.stop()
    seen = records(report)
    assert [(s["method"], s["status"]) for s in seen] == [("GET", 200)] * 2 * FETCHES
    assert report["counters"].get("share.handed_over", 0) == 0, "they come to their owners"
    assert report["counters"]["forward.packets"] == report["statistics"]["packets"]
