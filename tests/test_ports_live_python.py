# SPDX-License-Identifier: Apache-2.0
"""Live ports from Python: their errors, what they count, and an NF on real traffic."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_rig import (
    PATIENCE_S,
    Server,
    Wire,
    build_bridge,
    digest,
    fetch,
    make_page,
    needs_namespaces,
    wire,
)

from mesh.errors import NativeError
from mesh.ports import Port

OBSERVE = """
import json, sys
from mesh import NF, on, replay
from mesh.ports import Port

class Requests(NF):
    name = "requests"

    def __init__(self):
        self.seen = []

    @on("http.request")
    def request(self, batch):
        self.seen += [event.target for event in batch]

    def results(self):
        return {"targets": self.seen}

port = Port.afpacket("m0", block_ms=int(sys.argv[1]))
print("ready", flush=True)
report = replay(port, [Requests], max_packets=12)
print(json.dumps([report.packets, report.nfs[0].results["targets"]]))
"""
LOOK = """
import json
from mesh.ports import Port

tap = Port.tap("tp%d", mtu=1400)
veth = Port.afpacket("m0", fanout_group=5)
print(json.dumps([[tap.statistics().link_up, tap.statistics().mtu],
                  [veth.statistics().link_up, veth.statistics().mtu]]))
tap.close()
veth.close()
"""


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Wire]:
    """Three namespaces in a row."""
    with wire(build_bridge(tmp_path)) as made:
        yield made


@pytest.mark.parametrize(
    ("opens", "says"),
    [
        (lambda: Port.afpacket("nosuch0"), "nosuch0: no such interface"),
        (lambda: Port.afpacket("lo", rx_frames=63), "rx_frames 63"),
        (lambda: Port.afpacket("lo", block_ms=1001), "block_ms 1001"),
        (lambda: Port.tap("a/b"), "no name of an interface"),
        (lambda: Port.tap("far-too-long-a-name"), "no name of an interface"),
    ],
)
def test_errors_name_the_interface_and_the_remedy(opens: Callable[[], Port], says: str) -> None:
    with pytest.raises(NativeError, match=says):
        opens()


@needs_namespaces
def test_ports_tell_state_and_mtu(net: Wire) -> None:
    assert json.loads(net.middle.run(sys.executable, "-c", LOOK)) == [[1, 1400], [1, 1500]]


@needs_namespaces
@pytest.mark.parametrize("block_ms", ["0", "5"])
def test_an_nf_observes_a_live_interface(net: Wire, tmp_path: Path, block_ms: str) -> None:
    page = make_page(tmp_path)
    net.bridge()
    net.wait_for_ping("10.9.0.2")
    for host, end in ((net.left, "l0"), (net.right, "r0")):
        host.speak_ipv6(False, end)  # what the observer counts is the connection
    line = net.middle.command(sys.executable, "-c", OBSERVE, block_ms)
    observer = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    server = Server(net.right, page)
    try:
        assert observer.stdout is not None
        assert observer.stdout.readline() == "ready\n"
        assert fetch(net.left, "10.9.0.2") == digest(page)
        out, _ = observer.communicate(timeout=PATIENCE_S)
    finally:
        observer.kill()
        server.close()
    assert json.loads(out) == [12, ["/page"]]
