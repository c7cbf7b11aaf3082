# SPDX-License-Identifier: Apache-2.0
"""Several workers in one process: what they find together, and which of them is asked for what."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from file_rig import by_flow, traffic, with_fragments
from pcap_file import packets

from mesh import NF, Context, EventBatch, on, replay
from mesh.errors import SpecError
from mesh.ports import Port
from mesh.testing import ACK, RST, START_NS, SYN, Frame, packet, tcp, timed, write_capture

CAPTURES = sorted((Path(__file__).parent / "captures").glob("*.pcap"))
SIZES = {"n_small": 4096, "n_records": 32768, "max_flows": 4096, "fields_size": 4 << 20}


def run(path: Path, *nfs: Any, workers: int = 1, **options: Any) -> Any:
    return replay(path, list(nfs), worker=SIZES, workers=workers, **options)


def rows(report: Any, nf: str, key: str) -> list[str]:
    """Returns what an NF found, in an order of its own."""
    return sorted(map(repr, report[nf].results[key]))


class Seen(NF):
    """Counts packets by number, and flows by worker."""

    def __init__(self) -> None:
        self.numbers: Counter[int] = Counter()
        self.flows: dict[int, set[int]] = {}
        self.workers = 0

    def start(self, ctx: Context) -> None:
        self.workers = ctx.workers

    @on("packet")
    def handle(self, batch: EventBatch) -> None:
        self.numbers.update(batch.packet.tolist())
        for flow in batch.flow.tolist():
            self.flows.setdefault(flow >> 56, set()).add(flow)


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_they_find_what_one_finds(capture: Path, workers: int) -> None:
    one, all_ = (run(capture, "http_log", "dns_log", workers=n) for n in (1, workers))
    for nf, key in (("http_log", "records"), ("dns_log", "records")):
        assert rows(all_, nf, key) == rows(one, nf, key)
        assert all_[nf].events == one[nf].events
    assert all_.statistics.flows_opened == one.statistics.flows_opened
    assert all_.packets == one.packets
    assert all_.statistics.foreign == (workers - 1) * one.packets


def test_packets_keep_their_numbers_and_flows_their_worker(tmp_path: Path) -> None:
    frames = traffic(40)
    write_capture(tmp_path / "in.pcap", frames)
    seen = Seen()
    run(tmp_path / "in.pcap", seen, workers=3)
    assert seen.numbers == Counter(range(1, len(frames) + 1))
    assert sorted(seen.flows) == [0, 1, 2]
    assert seen.workers == 3


def test_they_stop_at_the_same_packet(tmp_path: Path) -> None:
    write_capture(tmp_path / "in.pcap", traffic(40))
    seen = Seen()
    report = run(tmp_path / "in.pcap", seen, workers=3, max_packets=100)
    assert report.packets == 100
    assert seen.numbers == Counter(range(1, 101))


class FirstOnly(NF):
    """Hears a flow until its first packets were handed out."""

    def __init__(self) -> None:
        self.heard: Counter[int] = Counter()

    @on("packet.udp")
    def handle(self, batch: EventBatch) -> None:
        for flow in set(batch.flow.tolist()):
            self.flow(flow).unsubscribe()
        self.heard.update(batch.flow.tolist())


def test_commands_go_to_the_worker_of_the_flow(tmp_path: Path) -> None:
    frames = [frame for _ in range(80) for frame in traffic(30)]
    write_capture(tmp_path / "in.pcap", frames)
    nf = FirstOnly()
    report = run(tmp_path / "in.pcap", nf, workers=3)
    assert len(nf.heard) == 30
    assert {flow >> 56 for flow in nf.heard} == {0, 1, 2}
    assert max(nf.heard.values()) < 8 * 80, "none is heard to its end"
    assert "command.bad" not in report.counters


class DropsDns(NF):
    """Drops what goes to port 53."""

    @on("packet.udp", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        batch.drop(batch.dst_port == 53)


def test_each_decides_on_its_own(tmp_path: Path) -> None:
    before, after = tmp_path / "before.pcap", tmp_path / "after.pcap"
    write_capture(before, traffic(30), form="pcap-ns")
    report = run(before, DropsDns(), workers=3, sink=Port.record(after, "pcap-ns"))
    wanted = [
        frame
        for frame in packets(before)
        if not (frame[1][23] == 17 and frame[1][36:38] == b"\0\x35")
    ]
    assert by_flow(packets(after)) == by_flow(wanted)
    assert report.counters["inline.dropped"] == len(packets(before)) - len(wanted) > 0


def test_fragments_are_counted_once(tmp_path: Path) -> None:
    write_capture(tmp_path / "in.pcap", with_fragments(20))
    one, several = (run(tmp_path / "in.pcap", "flow_counter", workers=n) for n in (1, 3))
    assert several["flow_counter"].results == one["flow_counter"].results
    assert several.counters["ip_defrag.fragments"] == one.counters["ip_defrag.fragments"] == 60
    assert several.packets == one.packets


def test_a_port_has_one_reader() -> None:
    with pytest.raises(SpecError, match="a port has one reader"):
        run(Port.memory(traffic(1)), "flow_counter", workers=2)


def attempts(n: int) -> list[Frame]:
    """Returns what a host with many peers does in some minutes: few of them answer, and late."""
    host, draw, at, frames = "10.9.9.9", random.Random(2), START_NS, []
    for i in range(n):
        peer, port = f"10.{i % 7}.{i % 200}.7", 6346 + i % 5
        at += draw.randrange(1, 700) * 1_000_000
        back = (peer, port, host, 20000 + i)
        syn = packet(tcp(b"", host, 20000 + i, peer, port, seq=5, flags=SYN), host, peer, 6)
        frames.append(Frame(syn, at))
        kind = draw.choice((SYN | ACK, RST | ACK, 0, 0))
        if kind:
            answer = packet(tcp(b"", *back, seq=9, ack=6, flags=kind), peer, host, 6)
            frames.append(Frame(answer, at + draw.randrange(1, 4000) * 1_000_000))
    return sorted(frames, key=lambda frame: frame.ts_ns)


class Ordered(NF):
    """Keeps the numbers of packets as they come."""

    needs_order = True

    def __init__(self) -> None:
        self.numbers: list[int] = []

    @on("packet")
    def handle(self, batch: EventBatch) -> None:
        self.numbers += batch.packet.tolist()


def test_entries_come_in_the_order_of_packets(tmp_path: Path) -> None:
    write_capture(tmp_path / "in.pcap", timed([f.data for f in traffic(60)], step_ns=0))
    seen = Ordered()
    report = run(tmp_path / "in.pcap", seen, workers=3)
    assert seen.numbers == list(range(1, report.packets + 1))


def test_what_depends_on_order_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    write_capture(tmp_path / "in.pcap", attempts(800))
    one = run(tmp_path / "in.pcap", "syn_scan")["syn_scan"]
    assert one.results["scans"]
    for workers in (2, 3, 4):
        again = run(tmp_path / "in.pcap", "syn_scan", workers=workers)["syn_scan"]
        assert (again.events, again.results) == (one.events, one.results)
        assert again.published == one.published
