# SPDX-License-Identifier: Apache-2.0
"""What an NF asks of the worker: hearing single flows, keeping entries; and gaps it is told of.

Each is tried in one process and as processes of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mesh
from mesh import NF, EventBatch, on
from mesh.errors import CapacityError, NFError, PlanError, StateError
from mesh.testing import Frame, conversation, write_capture
from tests.mesh_rig import Rig, rig

PORTS = (80, 81, 82, 83)
PIECES = 10_000


def talk(port: int, pieces: int) -> list[Frame]:
    """A connection to `port` with so many pieces of data from its client."""
    turns = [("client", b"%d:%d;" % (port, i)) for i in range(pieces)]
    return conversation(turns, server=("10.0.0.2", port))


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Connections to the ports, one after the other, so long that bursts and rings end within."""
    frames = [frame for port in PORTS for frame in talk(port, PIECES)]
    path = tmp_path / "in.pcap"
    write_capture(path, frames)
    return path


PICKY = '''
from collections import Counter

from mesh import NF, EventBatch, on


class Picky(NF):
    """Hears the data of one port only, from the handshake on; of another until it has enough."""

    def __init__(self) -> None:
        self.data, self.packets, self.left = Counter(), Counter(), False

    @on("tcp.handshake.syn")
    def opened(self, batch: EventBatch) -> None:
        for event in batch:
            if event.server_port == 81:
                self.flow(event.flow).subscribe("tcp.data")

    @on("tcp.data", per_flow=True)
    def told(self, batch: EventBatch) -> None:
        self.data.update(batch.column("server_port").tolist())

    @on("packet.tcp", where="server_port != 80")
    def seen(self, batch: EventBatch) -> None:
        self.packets.update(batch.column("server_port").tolist())
        for event in batch:
            if event.server_port == 82 and not self.left:
                self.left = True
                self.flow(event.flow).unsubscribe()

    def results(self) -> dict[str, object]:
        return {"data": dict(self.data), "packets": dict(self.packets)}
'''


def check_picky(results: Any) -> None:
    data = {int(port): n for port, n in results["data"].items()}
    packets = {int(port): n for port, n in results["packets"].items()}
    assert set(data) == {81}, "only what was subscribed"
    assert 0 < data[81] <= PIECES
    assert packets[81] == packets[83] == PIECES * 2 + 6
    assert 0 < packets[82] < packets[81], "the rest of that flow is not heard"
    assert 80 not in packets


def load(body: str, name: str) -> type[NF]:
    space: dict[str, Any] = {"__name__": "made"}
    exec(compile(body, name, "exec"), space)
    found: type[NF] = space[name]
    return found


def test_an_nf_chooses_flow_by_flow_in_one_process(capture: Path) -> None:
    report = mesh.replay(str(capture), nfs=[load(PICKY, "Picky")])
    check_picky(report.nfs[0].results)


def test_an_nf_chooses_flow_by_flow_from_its_own_process(capture: Path) -> None:
    with rig() as made:
        use = made.nf("picky", PICKY)
        made.start([{"use": use, "name": "picky", "ring": 1024}], capture)
        check_picky(finished(made, "picky"))


def finished(made: Rig, name: str) -> Any:
    report = made.report()[name]
    assert not report["errors"], report
    return report["results"]


class Unknown(NF):
    """Names what it has not."""

    @on("tcp.handshake.syn")
    def opened(self, batch: EventBatch) -> None:
        self.flow(batch[0].flow).subscribe("tcp.dat")


def test_a_subscription_that_the_nf_has_not_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    write_capture(path, talk(80, 2))
    report = mesh.replay(str(path), nfs=[Unknown])
    [error] = report.nfs[0].errors
    assert isinstance(error, NFError)
    assert "tcp.dat" in str(error)
    assert "tcp.handshake.syn" in str(error)
    with pytest.raises(StateError):
        Unknown().flow(1)


class PerFlowPublished(NF):
    """Wants a published event per flow."""

    @on("made.thing", per_flow=True)
    def heard(self, batch: EventBatch) -> None: ...


def test_published_events_are_not_per_flow() -> None:
    class Thing(mesh.Event, name="made.thing"):
        """A thing."""

        n: int

    class Maker(NF):
        """Makes it."""

        publishes = (Thing,)

        @on("packet")
        def any(self, batch: EventBatch) -> None: ...

    with pytest.raises(PlanError, match="only stack events are per flow"):
        mesh.replay("nothing.pcap", nfs=[Maker, PerFlowPublished])


KEEPER = '''
from mesh import NF, EventBatch, on


class Keeper(NF):
    """Keeps every thousandth piece of data, and reads it when much has passed."""

    holds = 16

    def __init__(self) -> None:
        self.kept, self.n, self.wrong, self.read = [], 0, 0, 0

    @on("tcp.data")
    def told(self, batch: EventBatch) -> None:
        rows = [i for i in range(len(batch)) if (self.n + i) % 1000 == 0]
        self.n += len(batch)
        for i in rows:
            if len(self.kept) == self.holds:
                self.check(*self.kept.pop(0))
            mask = [row == i for row in range(len(batch))]
            import numpy as np
            self.kept.append((batch.hold(np.array(mask)), bytes(batch.data[i]), batch.flow[i]))

    def check(self, held, data, flow) -> None:
        with held:
            self.read += 1
            same = bytes(held.data[0]) == data and held.flow[0] == flow
            self.wrong += not same or held.text("server_port") == []

    def stop(self) -> None:
        while self.kept:
            self.check(*self.kept.pop(0))

    def results(self) -> dict[str, int]:
        return {"n": self.n, "wrong": self.wrong, "read": self.read}
'''
SMALL = {"n_small": 1024, "n_records": 32768, "n_large": 256, "max_flows": 1024}


def test_kept_entries_stay_as_they_were_in_one_process(capture: Path) -> None:
    report = mesh.replay(str(capture), nfs=[load(KEEPER, "Keeper")], worker=SMALL)
    assert report.nfs[0].results == {"n": 4 * PIECES, "wrong": 0, "read": 4 * PIECES // 1000}
    assert report.statistics.records_used == 16, "what it had not released by its last handler"
    assert report.counters.get("command.bad", 0) == 0


def test_kept_entries_stay_as_they_were_in_another_process(capture: Path) -> None:
    with rig() as made:
        use = made.nf("keeper", KEEPER)
        made.start([{"use": use, "name": "keeper", "ring": 1024}], capture, worker=SMALL)
        assert finished(made, "keeper") == {"n": 4 * PIECES, "wrong": 0, "read": 4 * PIECES // 1000}


class Greedy(NF):
    """Keeps more than it may."""

    holds = 2

    @on("tcp.data")
    def told(self, batch: EventBatch) -> None:
        batch.hold()


def test_more_than_the_quota_is_refused_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    write_capture(path, talk(80, 5))
    report = mesh.replay(str(path), nfs=[Greedy])
    [error] = report.nfs[0].errors
    assert "no more entries may be held" in str(error)
    assert report.statistics.records_used == 0


class Hoarder(NF):
    """Wants to keep more than the pool has."""

    holds = 4096

    @on("tcp.data")
    def told(self, batch: EventBatch) -> None: ...


def test_quotas_beyond_the_pool_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    write_capture(path, talk(80, 5))
    with pytest.raises(CapacityError, match=r"raise worker\.n_large to 8192"):
        mesh.replay(str(path), nfs=[Hoarder])


SLOW = '''
import time

from mesh import NF, EventBatch, on


class Slow(NF):
    """Is slower than any worker."""

    def __init__(self) -> None:
        self.heard = self.missed = self.gaps = self.last = self.holes = 0

    @on("packet.tcp")
    def told(self, batch: EventBatch) -> None:
        self.heard += len(batch)
        for number in batch.column("packet").tolist():
            self.holes += number - self.last - 1
            self.last = number
        time.sleep(0.005)

    def lost(self, entries: int) -> None:
        self.missed += entries
        self.gaps += 1
        self.holes -= entries

    def results(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("heard", "missed", "gaps", "last", "holes")}
'''


def test_a_lossy_ring_says_where_and_how_much_is_missing(capture: Path) -> None:
    packets = 4 * (2 * PIECES + 6)
    with rig() as made:
        use = made.nf("slow", SLOW)
        made.start([{"use": use, "name": "slow", "ring": 256, "delivery": "lossy"}], capture)
        results = finished(made, "slow")
    assert results["heard"] + results["missed"] == packets
    assert results["gaps"] > 0
    behind = packets - results["last"]
    assert results["holes"] + behind == 0, "each gap stands where entries are missing"
