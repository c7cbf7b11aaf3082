# SPDX-License-Identifier: Apache-2.0
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pcap_file import frames_of

import mesh
from mesh import NF, on
from mesh.ports import Port
from mesh.testing import START_NS, SYN, Frame, conversation, packet, tcp, timed, write_capture
from nfs.syn_flood.nf import SynFlood
from nfs.syn_flood.tables import Remembered, Targets, hashes

SECOND = 1_000_000_000
BEGIN_NS = START_NS // SECOND * SECOND
VICTIM = "10.0.0.2"


class Hears(NF):
    """Collects what is published."""

    def __init__(self):
        self.found = []

    @on("syn_flood.attack")
    def heard(self, batch):
        self.found += [(event.type, event.target, event.ts) for event in batch]


def syn(source, port, target=VICTIM, dport=80):
    return packet(tcp(b"", source, port, target, dport, seq=7, flags=SYN), source, target, 6)


def flood(count, *, start_ns=BEGIN_NS, step_ns=1_000_000, target=VICTIM):
    sources = [f"172.16.{i // 250 % 250}.{i % 250 + 1}" for i in range(count)]
    return timed([syn(s, 1024 + i, target) for i, s in enumerate(sources)], start_ns, step_ns)


def client(host, *, start_ns, retries=0, port=40000):
    """A connection whose SYN is sent again after a second, as often as it is not answered."""
    address = f"10.1.0.{host}"
    talk = conversation(
        [("client", b"hello")], client=(address, port), server=(VICTIM, 80),
        start_ns=start_ns + retries * SECOND,
    )  # fmt: skip
    return [Frame(talk[0].data, start_ns + i * SECOND) for i in range(retries)] + talk


def through(tmp_path, frames, **options):
    """Sends frames through the NF; returns its results, the frames that came out, the events."""
    source, out = tmp_path / "in.pcapng", tmp_path / "out.pcap"
    write_capture(source, sorted(frames, key=lambda frame: frame.ts_ns))
    hears = Hears()
    report = mesh.replay(source, [SynFlood(**options), hears], sink=Port.record(out, "pcap"))
    assert not report.errors
    return report["syn_flood"].results, frames_of(out), hears.found


def of(frames, prefix):
    """Those frames that go between the victim and addresses that begin with `prefix`."""
    return [f for f in frames if f[26:28] == prefix or f[30:32] == prefix]


CLIENTS, ATTACKERS = bytes([10, 1]), bytes([172, 16])


def test_a_flood_is_held_back_and_clients_finish(tmp_path):
    attack = flood(5000)  # five seconds
    clients = [
        frame
        for host in range(1, 21)
        for frame in client(host, start_ns=BEGIN_NS + SECOND + host * 10_000_000, retries=1)
    ]
    results, out, events = through(tmp_path, attack + clients)
    [row] = results["found"]
    assert (row["target"], row["lasts"]) == (VICTIM, True)
    assert [name for name, *_ in events] == ["syn_flood.attack.begin"]
    assert 150 < len(of(out, ATTACKERS)) < 200, "what came before the burst that showed it"
    want = [frame.data for frame in sorted(clients, key=lambda frame: frame.ts_ns)]
    first = {frame.data for frame in clients[::9]}
    got = of(out, CLIENTS)
    assert len(got) == len(want) - 20, "each lost its first SYN and nothing else"
    assert sorted(got) == sorted(set(want) | first)
    assert results["came_again"] == 20
    assert results["held_back"] == 5000 - len(of(out, ATTACKERS)) + 20


def test_who_has_finished_a_handshake_before_passes_at_once(tmp_path):
    before = client(1, start_ns=BEGIN_NS - 30 * SECOND)
    during = client(1, start_ns=BEGIN_NS + 2 * SECOND, port=40001)
    results, out, _ = through(tmp_path, before + flood(3000) + during)
    assert len(of(out, CLIENTS)) == len(before) + len(during)
    assert results["from_proven"] == 1


def test_begin_and_end_are_told_once_each(tmp_path):
    frames = flood(1000) + client(1, start_ns=BEGIN_NS + 3 * SECOND)[:1]
    frames += client(2, start_ns=BEGIN_NS + 20 * SECOND)
    results, out, events = through(tmp_path, frames, calm=4)
    assert [(name, target) for name, target, _ in events] == [
        ("syn_flood.attack.begin", VICTIM),
        ("syn_flood.attack.end", VICTIM),
    ]
    assert BEGIN_NS < events[0][2] < BEGIN_NS + SECOND
    [row] = results["found"]
    assert not row["lasts"]
    assert row["held_back"] == results["held_back"]
    assert client(2, start_ns=BEGIN_NS + 20 * SECOND)[0].data in out, "it is over"
    assert client(1, start_ns=BEGIN_NS)[0].data not in out, "not calm for long enough"


def test_other_targets_are_left_alone(tmp_path):
    others = [
        frame
        for port in range(20)
        for frame in conversation(
            client=("10.1.0.1", 4000 + port), server=("10.0.0.3", 80), start_ns=BEGIN_NS + SECOND
        )
    ]
    _, out, _ = through(tmp_path, flood(3000) + others)
    assert len(of(out, CLIENTS)) == len(others)


def test_a_busy_server_is_not_attacked(tmp_path):
    frames = [
        frame
        for port in range(1000)
        for frame in conversation(
            client=("10.1.0.1", 2000 + port),
            start_ns=BEGIN_NS + port * 500_000,
            step_ns=100_000,
        )
    ]
    results, out, events = through(tmp_path, frames)
    assert (results["attacks"], events, len(out)) == (0, [], len(frames))


def test_few_syns_are_no_attack(tmp_path):
    results, out, _ = through(tmp_path, flood(1000, step_ns=6_000_000))
    assert (results["attacks"], results["syns"], len(out)) == (0, 1000, 1000)


def test_rejecting_tells_the_sender(tmp_path):
    source = tmp_path / "in.pcapng"
    write_capture(source, flood(1000))
    sink = Port.record(tmp_path / "out.pcap", "pcap")
    report = mesh.replay(source, [SynFlood(action="reject")], sink=sink)
    assert report["syn_flood"].results["held_back"] == report.counters["inline.rejected"] > 600


def test_ipv6_targets_are_seen(tmp_path):
    frames = timed([syn(f"2001:db8::{i + 1:x}", 9, "2001:db8:1::1") for i in range(1000)], BEGIN_NS)
    results, _, _ = through(tmp_path, frames)
    assert [row["target"] for row in results["found"]] == ["2001:db8:1::1"]


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2**64 - 1)), min_size=1, max_size=60),
    st.integers(1, 10),
)
@settings(max_examples=150, deadline=None)
def test_what_was_added_is_found_for_a_period(steps, period):
    remembered, now, added = Remembered(64, period), 0, {}
    for wait, number in steps:
        now += wait
        remembered.turn(now)
        for other, at in added.items():
            if now - at <= period:
                assert remembered.has(np.array([other], np.uint64)).all()
        remembered.add(np.array([number], np.uint64))
        added[number] = now
    remembered.turn(now + 2 * period)
    assert not remembered.has(np.array(list(added), np.uint64)).any()


def test_few_are_mistaken_for_others():
    remembered = Remembered(1 << 16, SECOND)
    numbers = np.arange(6000, dtype=np.uint32)
    remembered.add(hashes(5, numbers[:2000]))
    assert remembered.has(hashes(5, numbers[:2000])).all()
    assert remembered.has(hashes(5, numbers[2000:])).sum() < 100


def test_targets_count_by_interval():
    targets = Targets(16, limit=10, ratio=0.5, calm=2)
    slots, none = np.full(9, 3), np.array([], np.intp)
    assert not len(targets.count(slots, none))
    assert targets.count(slots[:1], none).tolist() == [3]
    assert not len(targets.count(slots, none)), "told once"
    assert not len(targets.turn(1))
    assert not len(targets.turn(1)), "one calm interval"
    assert targets.turn(1).tolist() == [3]
    assert not targets.attacked.any()
