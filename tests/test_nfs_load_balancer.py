# SPDX-License-Identifier: Apache-2.0
"""The load balancer as an NF: options, a run, health by events, results."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from pcap_file import frames_of

import mesh
from mesh import NF, Event, EventBatch, Report, on
from mesh.errors import NFMissing, SpecError, StateError
from mesh.native_nf import library_path
from mesh.ports import Frame, Port
from mesh.testing import datagrams, write_capture
from nfs.load_balancer.nf import LoadBalancer, LoadBalancerByEvent
from nfs.load_balancer.services import Backend, Service

try:
    library_path(LoadBalancer, LoadBalancer.native)
except NFMissing:
    pytest.skip("load_balancer.so was not built", allow_module_level=True)

BACKENDS = tuple(Backend(f"10.0.0.{i}", 5300) for i in range(1, 5))
DNS = Service("198.51.100.53", 53, BACKENDS, protocol="udp")


def queries(n: int, first: int = 1000) -> list[Frame]:
    """A datagram each from n ports."""
    return [
        frame
        for port in range(first, first + n)
        for frame in datagrams(
            [("client", b"?")], client=("203.0.113.1", port), server=("198.51.100.53", 53)
        )
    ]


def through(tmp_path: Path, frames: list[Frame], *nfs: NF) -> tuple[Report, list[str]]:
    """Sends frames through NFs; returns the report and where they went to."""
    source, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    write_capture(source, frames)
    report = mesh.replay(source, nfs=list(nfs), sink=Port.record(out, "pcap"))
    assert not any(nf.errors for nf in report.nfs)
    return report, [str(ip_address(frame[30:34])) for frame in frames_of(out)]


def test_flows_are_spread_and_counted(tmp_path: Path) -> None:
    report, found = through(tmp_path, queries(400), LoadBalancer([DNS]))
    went = Counter(found)
    assert set(went) == {backend.address for backend in BACKENDS}
    assert min(went.values()) > 60
    results = report["load_balancer"].results
    assert results["flows"] == 400
    assert {row["backend"]: row["flows"] for row in results["backends"]} == {
        f"{address} 5300": n for address, n in went.items()
    }
    assert all(row["active"] == 0 and row["share"] == 0.25 for row in results["backends"])


def test_a_drained_backend_gets_nothing(tmp_path: Path) -> None:
    backends = (
        Backend("10.0.0.1", state="drain"),
        Backend("10.0.0.2"),
        Backend("10.0.0.3", weight=0),
    )
    service = Service("198.51.100.53", 53, backends, protocol="udp")
    _, found = through(tmp_path, queries(50), LoadBalancer([service]))
    assert set(found) == {"10.0.0.2"}


class Health(Event, name="backend.health"):
    """A backend's state, as a checker sees it."""

    address: IPv4Address | IPv6Address
    port: int
    state: str


class Checker(NF):
    """Finds all backends but one ill when it sees the first packet."""

    publishes = (Health,)

    def __init__(self) -> None:
        self.told = False

    @on("packet.udp")
    def look(self, batch: EventBatch) -> None:
        """Tells, once; and something that makes no sense."""
        if self.told:
            return
        self.told = True
        for backend in BACKENDS[1:]:
            self.publish(Health(address=IPv4Address(backend.address), port=0, state="down"))
        self.publish(Health(address=IPv4Address("10.0.0.1"), port=0, state="tired"))


def test_health_comes_by_events(tmp_path: Path) -> None:
    balancer = LoadBalancerByEvent([DNS])
    report, found = through(tmp_path, queries(4000), Checker(), balancer)
    assert set(found[-1000:]) == {"10.0.0.1"}
    assert len(set(found)) == 4
    states = [row["state"] for row in report["load_balancer_by_event"].results["backends"]]
    assert states == ["up", "down", "down", "down"]


def test_states_are_set_while_it_runs_only() -> None:
    with pytest.raises(StateError, match="does not run"):
        LoadBalancer([DNS]).set_state("10.0.0.1", "down")


@pytest.mark.parametrize(
    ("service", "place"),
    [
        (Service("x", 80), r"services\[0\].address"),
        (Service("192.0.2.1", 80, (Backend("fd00::1"),)), "IP version"),
        (Service("192.0.2.1", 80, (Backend("10.0.0.1"),), mode="direct"), "MAC"),
    ],
)
def test_mistakes_are_named_with_their_place(service: Service, place: str) -> None:
    with pytest.raises(SpecError, match=place):
        LoadBalancer([service])


def test_a_service_stands_there_once() -> None:
    with pytest.raises(SpecError, match="twice"):
        LoadBalancer([DNS, DNS])
