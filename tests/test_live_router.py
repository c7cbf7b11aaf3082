# SPDX-License-Identifier: Apache-2.0
"""The router between real kernels: three hosts, each on a link of its own."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from live_mesh import LiveMesh
from live_rig import (
    PYTHON,
    Namespace,
    Server,
    Star,
    digest,
    fetch,
    make_page,
    needs_namespaces,
    star,
    wait_until,
)

pytestmark = needs_namespaces
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
        self.routes = folder / "routes.txt"
        self.routes.write_text(f"{FAR}/32 via 10.3.0.2\n10.66.0.0/16 prohibit\n")
        self._folder = folder

    def spec(self, **options: Any) -> Path:
        """Writes a spec with a router and two observers."""
        ports = [f"m{n - 1} 10.{n}.0.1/24 fd0{n}::1/64 mtu 1500" for n in (1, 2)]
        ports.append("m2 10.3.0.1/24 fd03::1/64 mtu 1400")
        config = {"ports": ports, "routes": str(self.routes), **options}
        spec = {
            "nfs": [{"use": "router", "config": config}, {"use": "flow_counter"}],
            "ports": [
                {"afpacket": f"m{n}", "out": f"m{(n + 1) % 3}"} for n in range(3)
            ],
        }
        path = self._folder / "mesh.json"
        path.write_text(json.dumps(spec))
        return path


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Hosts and their links."""
    folder = tmp_path_factory.mktemp("router")
    folder.chmod(0o755)
    for parent in folder.parents:
        if parent.stat().st_uid == 0 and parent != Path("/") and "pytest" in parent.name:
            parent.chmod(0o755)  # NFs are other users
    with star() as hosts:
        yield Net(hosts, folder)


@pytest.fixture(scope="module")
def mesh(net: Net) -> Iterator[LiveMesh]:
    """A mesh that routes."""
    with ExitStack() as stack:
        made = LiveMesh(net.middle, str(net.spec(reachable_s=2)))
        stack.callback(made.close)
        made.wait_running()
        yield made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to fetch."""
    return make_page(tmp_path_factory.mktemp("www"))


def ping(host: Namespace, address: str, *options: str) -> bool:
    """Says whether a host gets an answer."""
    return host.works("ping", "-c", "1", "-W", "2", *options, address)


def words_of(host: Namespace, address: str, *options: str) -> str:
    """Returns what ping prints, errors and all."""
    line = host.command("ping", "-c", "1", "-W", "2", *options, address)
    return subprocess.run(line, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("address", ["10.1.0.1", "fd01::1", "10.2.0.1", "fd02::1"])
def test_it_answers_for_its_own_addresses(net: Net, mesh: LiveMesh, address: str) -> None:
    assert ping(net.a, address)
    assert ping(net.a, address, "-s", "1200")


@pytest.mark.parametrize("address", ["10.2.0.2", "fd02::2", "10.3.0.2", "fd03::2", FAR])
def test_the_first_packet_to_a_host_arrives(net: Net, mesh: LiveMesh, address: str) -> None:
    assert ping(net.a, address), "a packet that waits for its next hop"
