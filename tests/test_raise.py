# SPDX-License-Identifier: Apache-2.0
"""Events that inline NFs raise with their verdicts, in one process and as processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from file_rig import by_flow, datagram, run, write_nf
from live_mesh import LiveMesh
from live_rig import public_folder
from pcap_file import packets

import mesh
from mesh import NF, Event, EventBatch, on
from mesh.errors import PlanError, StateError
from mesh.ports import Port
from mesh.testing import conversation, timed, write_capture

FLOWS = 8
EACH = 30


class Suspect(Event, name="guard.suspect"):
    """A datagram that somebody should look at."""

    word: str
    serial: int
    source: IPv4Address


class Guard(NF):
    """Raises what it finds suspicious; passes all."""

    raises = (Suspect,)

    @on("packet.udp", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        for event in batch:
            word, _, serial = bytes(event.frame[42:]).partition(b" ")
            if word == b"bad":
                source = IPv4Address(event.src_ip)
                found = Suspect(word=word.decode(), serial=int(serial), source=source)
                self.raise_event(found, event)


class Bouncer(NF):
    """Drops what the guard suspects, one stage later."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, str]] = []

    @on("guard.suspect", mode="inline", stage=1)
    def judge(self, batch: EventBatch) -> None:
        for event in batch:
            self.asked.append((event.word, event.serial, str(event.source)))
            assert event.src_ip == str(event.source)
            assert int(bytes(event.frame[42:]).split()[1]) == event.serial
            event.drop()


class Watcher(NF):
    """Hears of them beside."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    @on("guard.suspect")
    def see(self, batch: EventBatch) -> None:
        self.heard += batch.serial.tolist()


class Filtering(Watcher):
    """Hears of some."""

    @on("guard.suspect", where=f"serial > {EACH * FLOWS - 4}")
    def see(self, batch: EventBatch) -> None:
        self.heard += batch.serial.tolist()


def traffic() -> list[bytes]:
    """Datagrams of several flows; the last of each odd one is bad."""
    return [
        datagram(
            f"10.9.0.{flow}",
            53,
            f"{'bad' if flow % 2 and n == EACH - 1 else 'good'} {n * FLOWS + flow}".encode(),
        )
        for n in range(EACH)
        for flow in range(FLOWS)
    ]


BAD = [(EACH - 1) * FLOWS + flow for flow in range(1, FLOWS, 2)]


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as made:
        write_capture(made / "in.pcap", timed(traffic()), form="pcap-ns")
        yield made


def through(folder: Path, *nfs: object) -> mesh.Report:
    """Sends the traffic through NFs in this process."""
    sink = Port.record(folder / "out.pcap", "pcap")
    return mesh.replay(folder / "in.pcap", nfs=list(nfs), sink=sink)  # type: ignore[arg-type]


def check_passed(folder: Path, out: str = "out.pcap") -> None:
    """What is not bad has passed, in order."""
    want = [(0, frame) for frame in traffic() if b"bad " not in frame]
    raw = (folder / out).read_bytes()
    assert all(raw.count(frame) == 1 for _, frame in want)
    assert b"bad " not in raw


def test_a_later_stage_drops_what_an_earlier_one_raised(folder: Path) -> None:
    bouncer, watcher, some = Bouncer(), Watcher(), Filtering()
    report = through(folder, Guard(), bouncer, watcher, some)
    assert [nf.errors for nf in report.nfs] == [()] * 4
    assert sorted(serial for _, serial, _ in bouncer.asked) == BAD
    assert {source for _, _, source in bouncer.asked} == {f"10.9.0.{n}" for n in range(1, FLOWS, 2)}
    assert sorted(watcher.heard) == BAD
    assert sorted(some.heard) == [n for n in BAD if n > EACH * FLOWS - 4] != []
    assert report.counters["inline.raised"] == len(BAD) == report.counters["inline.dropped"]
    assert report.counters.get("inline.bad_raise", 0) == 0
    check_passed(folder)


def test_without_deciders_observers_hear_it_once(folder: Path) -> None:
    watcher = Watcher()
    report = through(folder, Guard(), watcher)
    assert sorted(watcher.heard) == BAD
    assert report.counters.get("inline.dropped", 0) == 0


class Floods(Guard):
    """Raises more at once than the queue of commands holds."""

    @on("packet.udp", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        for event in batch:
            for n in range(5):
                found = Suspect(word="x" * 400, serial=n, source=IPv4Address("192.0.2.1"))
                self.raise_event(found, event)


def test_a_full_queue_loses_nothing(folder: Path) -> None:
    watcher = Watcher()
    report = through(folder, Floods(), watcher)
    assert report.counters["inline.raised"] == 5 * FLOWS * EACH
    assert len(watcher.heard) == 5 * FLOWS * EACH
    assert not report.nfs[0].errors


GUARD = """
from ipaddress import IPv4Address
from mesh import NF, Event, on

class Suspect(Event, name="guard.suspect"):
    word: str
    serial: int
    source: IPv4Address

class Guard(NF):
    raises = (Suspect,)

    @on("packet.udp", mode="inline")
    def judge(self, batch):
        for event in batch:
            word, _, serial = bytes(event.frame[42:]).partition(b" ")
            if word == b"bad":
                source = IPv4Address(event.src_ip)
                found = Suspect(word="bad", serial=int(serial), source=source)
                self.raise_event(found, event)
"""
BOUNCER = """
from mesh import NF, on

class Bouncer(NF):
    def __init__(self):
        self.asked = []

    @on("guard.suspect", mode="inline", stage=1)
    def judge(self, batch):
        self.asked += batch.serial.tolist()
        batch.drop()

    def results(self):
        return {"serials": sorted(self.asked)}
"""
WATCHER = """
from mesh import NF, on

class Watcher(NF):
    def __init__(self):
        self.heard = []

    @on("guard.suspect", where="word == 'bad'")
    def see(self, batch):
        self.heard += batch.serial.tolist()

    def results(self):
        return {"serials": sorted(self.heard)}
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_agree(folder: Path, workers: int) -> None:
    texts = {"guard": GUARD, "bouncer": BOUNCER, "watcher": WATCHER}
    nfs = [word for name in texts for word in ("--nf", write_nf(folder, name, texts[name]))]
    before, after = str(folder / "in.pcap"), str(folder / "out.pcap")
    report = run("--in", before, "--out", after, "--workers", str(workers), *nfs)
    found = {nf["name"]: nf["results"] for nf in report["nfs"]}
    assert found["bouncer"] == {"serials": BAD} == found["watcher"]
    flows = by_flow(packets(folder / "out.pcap"))
    assert sum(map(len, flows.values())) == FLOWS * EACH - len(BAD)
    check_passed(folder)


def test_watchers_see_what_is_raised(folder: Path) -> None:
    loop = {"pcap": str(folder / "in.pcap"), "out": "out", "replay": {"loop": True, "speed": 10}}
    nfs = [{"use": write_nf(folder, "guard", GUARD)}]
    spec = {"nfs": nfs, "ports": [loop, {"name": "out", "record": "/dev/null"}]}
    (folder / "mesh.json").write_text(json.dumps(spec))
    mesh = LiveMesh(None, str(folder / "mesh.json"))
    try:
        mesh.wait_running()
        found = mesh.ask("watch", "guard", "--mesh", "m", "--count", "1")
        assert found is not None
        assert (found["nf"], found["event"]) == ("guard", "guard.suspect")
        assert found["fields"]["word"] == "bad"
        assert found["fields"]["serial"] in BAD
        assert found["fields"]["source"] == found["fields"]["src_ip"]
        assert mesh.stop()["counters"]["inline.raised"] > 0
    finally:
        mesh.close()


class Early(Bouncer):
    """Would decide in the guard's own stage."""

    @on("guard.suspect", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        """Is never asked."""


class Beside(NF):
    """Raises, but decides on nothing."""

    raises = (Suspect,)

    @on("packet.udp")
    def see(self, batch: EventBatch) -> None:
        """Sees."""


@pytest.mark.parametrize(
    ("nfs", "said"),
    [
        ((Guard(), Early()), "'guard.suspect' is raised by 'guard' in stage 0"),
        ((Beside(),), "it is not inline"),
        ((Watcher(),), "guard.suspect"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, nfs: tuple[NF, ...], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        through(folder, *nfs)


class Wrong(NF):
    """Raises what it may not, and where it may not."""

    raises = (Suspect,)

    @on("packet.udp", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        """Passes."""

    @on("flow.end", beside=True)
    def ended(self, batch: EventBatch) -> None:
        with pytest.raises(StateError, match="only an inline handler"):
            self.raise_event(Suspect(word="", serial=1, source=IPv4Address("1.2.3.4")), batch[0])
        with pytest.raises(StateError, match="add it to `raises`"):
            self.raise_event(Other(), batch[0])


class Other(Event, name="other.found"):
    """Something else."""


def test_an_event_needs_a_packet_that_waits(folder: Path) -> None:
    report = through(folder, Wrong())
    assert report.nfs[0].errors == ()
    assert report.counters.get("inline.raised", 0) == 0


class Word(Event, name="reader.word"):
    """A forbidden word was found in a stream."""

    at: int


class Reader(NF):
    """Raises what it finds in streams."""

    raises = (Word,)

    @on("tcp.data", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        for event in batch:
            if b"secret" in bytes(event.payload):
                self.raise_event(Word(at=event.stream_off), event)


class Grave(Event, name="clerk.grave"):
    """A word that the clerk thinks is worth a look."""

    at: int


class Clerk(NF):
    """Decides on what the reader raised, and raises something itself."""

    raises = (Grave,)

    @on("reader.word", mode="inline", stage=1)
    def judge(self, batch: EventBatch) -> None:
        for event in batch:
            assert bytes(event.frame).endswith(b"secret")
            self.raise_event(Grave(at=event.at + 1000), event)


class Chief(NF):
    """Has the last word."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    @on("clerk.grave", mode="inline", stage=2)
    def judge(self, batch: EventBatch) -> None:
        self.asked += batch.at.tolist()
        batch.drop()


def test_a_chain_of_raises_about_a_stream_decides_on_its_flow(folder: Path) -> None:
    talks = [
        frame
        for client, last in (("10.3.0.1", b"secret"), ("10.3.0.2", b"public"))
        for frame in conversation(
            [("client", b"hello"), ("client", last), ("client", b"bye")], client=(client, 4000)
        )
    ]
    write_capture(folder / "in.pcap", talks, form="pcap-ns")
    chief = Chief()
    report = through(folder, Reader(), Clerk(), chief)
    assert [nf.errors for nf in report.nfs] == [()] * 3
    assert chief.asked == [1005]
    assert report.counters["inline.raised"] == 2
    raw = (folder / "out.pcap").read_bytes()
    assert (raw.count(b"hello"), raw.count(b"secret"), raw.count(b"public")) == (2, 0, 1)


def test_plans_show_who_raises_what() -> None:
    plan = mesh.make_plan([Guard, Bouncer])
    assert "raises guard.suspect → bouncer.judge" in plan.render()
    edge = {"from": "guard", "event": "guard.suspect", "to": "bouncer.judge"}
    assert plan.to_json()["edges"] == [edge]
