# SPDX-License-Identifier: Apache-2.0
"""Ports around ports, and the sink that records, on what NFs see of them."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

import mesh
from mesh import NF, EventBatch, on
from mesh.errors import NativeError, StateError
from mesh.events import Catalogue, shared_fields
from mesh.native_filter import NativeFilter
from mesh.port_wrappers import Impaired, Impairment, Replay, Tee
from mesh.ports import Port
from mesh.testing import Frame, conversation, write_capture

OFFICE = Path(__file__).parent / "captures/office.pcap"
SMALL = {"n_small": 4096, "n_records": 32768, "max_flows": 4096, "fields_size": 4 << 20}


class Heard(NF):
    """Notes every packet: its time and its length."""

    def __init__(self) -> None:
        self.packets: list[tuple[int, int]] = []

    @on("packet")
    def note(self, batch: EventBatch) -> None:
        times, lengths = batch.column("ts"), batch.column("wire_len")
        self.packets += zip(times.tolist(), lengths.tolist(), strict=True)

    def results(self) -> dict[str, object]:
        return {"packets": self.packets}


def heard(port: Port) -> list[tuple[int, int]]:
    """What an NF hears from a port."""
    nf = Heard()
    mesh.replay(port, [nf], worker=SMALL)
    return nf.packets


@pytest.fixture(scope="module")
def office() -> list[tuple[int, int]]:
    return heard(Port.pcap(OFFICE))


def frames(n: int, gap_ns: int) -> list[Frame]:
    made = conversation([("client", b"GET / HTTP/1.1\r\n\r\n")] * n)
    return [Frame(frame.data, 10**18 + i * gap_ns) for i, frame in enumerate(made)]


def test_a_replay_keeps_the_recorded_time_at_any_speed(office: list[tuple[int, int]]):
    assert heard(Replay(Port.pcap(OFFICE), speed=0)) == office
    assert heard(Replay(Port.pcap(OFFICE), speed=1e6, wait=0.01)) == office


def test_a_replay_takes_its_time():
    sent = frames(20, 5_000_000)
    began = time.monotonic()
    assert [ts for ts, _ in heard(Replay(Port.memory(sent), speed=2, wait=0.01))] == [
        frame.ts_ns for frame in sent
    ]
    assert time.monotonic() - began >= (len(sent) - 1) * 0.005 / 2


def test_a_live_replay_has_the_time_of_now():
    before = time.time_ns()
    times = [ts for ts, _ in heard(Replay(Port.memory(frames(5, 1000)), is_live=True))]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= time.time_ns()


def test_the_port_inside_is_given_over():
    inner = Port.pcap(OFFICE)
    with pytest.raises(NativeError, match="makes no sense"):
        Replay(inner, speed=-1)
    assert inner.statistics().rx_packets == 0  # still ours
    Replay(inner).close()
    with pytest.raises(StateError):
        inner.statistics()


def test_the_seed_of_an_impairment_decides_everything(office: list[tuple[int, int]]):
    def run(seed: int) -> list[tuple[int, int]]:
        bad = Impairment(seed, drop=0.1, duplicate=0.1, reorder=0.1, delay=0.3, delay_s=0.05)
        return heard(Impaired(Port.pcap(OFFICE), bad))

    first = run(1)
    assert run(1) == first != run(2)
    assert first != office
    assert heard(Impaired(Port.pcap(OFFICE), Impairment())) == office


def test_an_impairment_counts_what_it_did(office: list[tuple[int, int]]):
    port = Impaired(Replay(Port.pcap(OFFICE), speed=0), Impairment(7, drop=0.25, direction="rx"))
    counted = []

    class Last(Heard):
        def stop(self) -> None:
            counted.append((port.impairments("rx"), port.statistics()))

    nf = Last()
    mesh.replay(port, [nf], worker=SMALL)
    (rx, stats) = counted[0]
    assert rx.seen == stats.rx_packets == len(office)
    assert len(nf.packets) == rx.seen - rx.dropped
    assert 0.15 < rx.dropped / rx.seen < 0.35
    assert rx.kept == 0


def test_nonsense_is_refused_with_words():
    inner = Port.memory([])
    with pytest.raises(NativeError, match="shares of frames are 0 to 1"):
        Impaired(inner, Impairment(drop=2))
    inner.close()


def test_a_tee_records_what_passes(tmp_path: Path, office: list[tuple[int, int]]):
    tee = Tee(Port.pcap(OFFICE))
    tee.start(tmp_path / "all.pcapng")
    assert heard(tee) == office
    assert heard(Port.pcap(tmp_path / "all.pcapng")) == office


def test_a_tee_records_what_its_filter_wants(tmp_path: Path, office: list[tuple[int, int]]):
    catalogue = mesh.make_plan([Heard]).catalogue
    assert isinstance(catalogue, Catalogue)
    where = NativeFilter("udp port 53", shared_fields(catalogue, ("packet",)))
    tee = Tee(Port.pcap(OFFICE))
    tee.start(tmp_path / "dns.pcapng", where, max_frames=10)
    assert heard(tee) == office
    found = heard(Port.pcap(tmp_path / "dns.pcapng"))
    nf = DNS()
    mesh.replay(OFFICE, [nf], worker=SMALL)
    assert found == nf.packets[:10]
    assert len(found) == 10


class DNS(Heard):
    """The same by subscription."""

    @on("packet", where="udp port 53")
    def note(self, batch: EventBatch) -> None:
        super().note(batch)


def test_a_recording_ends_and_another_begins(tmp_path: Path):
    tee = Tee(Port.memory(frames(3, 1)))
    tee.start(tmp_path / "a.pcapng")
    with pytest.raises(StateError, match="stop it first"):
        tee.start(tmp_path / "b.pcapng")
    assert tee.recording().recording == 1
    assert tee.stop().recorded == 0
    with pytest.raises(NativeError, match="check the path"):
        tee.start(tmp_path / "nosuch/b.pcapng")
    assert tee.stop().recording == 0
    tee.close()


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_wireshark_reads_the_recording(tmp_path: Path, office: list[tuple[int, int]]):
    tee = Tee(Port.pcap(OFFICE))
    tee.start(tmp_path / "all.pcapng")
    heard(tee)
    command = ["tshark", "-r", str(tmp_path / "all.pcapng"), "-T", "fields", "-e", "frame.len"]
    command += ["-e", "frame.packet_flags_direction"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split() for line in out] == [[str(length), "0x00000001"] for _, length in office]


def test_a_sink_says_when_the_disk_is_full(tmp_path: Path):
    write_capture(tmp_path / "a.pcap", frames(1, 1))
    sink = Port.record(tmp_path / "b.pcap", "pcap-ns")
    sink.flush()
    sink.close()
    assert (tmp_path / "b.pcap").stat().st_size == 24  # a header
    full = Port.record("/dev/full")
    with pytest.raises(NativeError, match="free some space"):
        full.flush()
    assert full.statistics().link_up == 0
    full.close()
    with pytest.raises(NativeError, match="check the path"):
        Port.record(tmp_path / "nosuch/x")
