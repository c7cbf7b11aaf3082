# SPDX-License-Identifier: Apache-2.0
"""Inline NFs in one process: what goes in, what comes out."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest
from pcap_file import frames_of

import mesh
from mesh import NF, EventBatch, on
from mesh.compose import NFUse
from mesh.errors import SpecError, StateError
from mesh.nf import Subscription
from mesh.ports import Port
from mesh.testing import Frame, conversation, datagrams, write_capture

CAPTURES = Path(__file__).parent / "captures"


class PassAll(NF):
    """Lets everything pass."""

    subscribes = (Subscription(("packet",), mode="inline"),)

    def handle(self, batch: EventBatch) -> None:
        """Says nothing."""


class Second(PassAll):
    """Another one, in the next stage."""

    subscribes = (Subscription(("packet.tcp",), mode="inline", stage=1),)


def through(path: Path, tmp_path: Path, *nfs: object) -> tuple[mesh.Report, list[bytes]]:
    """Sends a capture through NFs; returns the report and the frames that came out."""
    out = tmp_path / "out.pcap"
    report = mesh.replay(path, nfs=list(nfs), sink=Port.record(out, "pcap"))  # type: ignore[arg-type]
    return report, frames_of(out)


FRAMES: dict[Path, list[bytes]] = {}
"""What was written, by file."""


def write(path: Path, frames: list[Frame]) -> Path:
    """Writes a capture and remembers it."""
    write_capture(path, frames)
    FRAMES[path] = [frame.data for frame in frames]
    return path


def by_flow(frames: list[bytes]) -> dict[frozenset[bytes], list[bytes]]:
    """Sorts frames by their ports: order is kept within a flow."""
    found: dict[frozenset[bytes], list[bytes]] = {}
    for frame in frames:
        found.setdefault(frozenset((frame[34:36], frame[36:38])), []).append(frame)
    return found


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Connections to four ports, their packets by turns."""
    said = [("client", b"x" * 40), ("server", b"y" * 400)] * 50
    each = [conversation(said, server=("10.0.0.2", port)) for port in (80, 81, 82, 83)]
    frames: list[Frame] = [frame for turn in zip(*each, strict=True) for frame in turn]
    return write(tmp_path / "in.pcap", frames)


@pytest.mark.parametrize("nfs", [(), (PassAll,), (PassAll, Second), (PassAll, Second, "http_log")])
def test_pass_all_is_the_identity(talks: Path, tmp_path: Path, nfs: tuple[object, ...]) -> None:
    report, out = through(talks, tmp_path, *(nfs or ("flow_counter",)))
    assert by_flow(out) == by_flow(FRAMES[talks])
    assert report.counters["forward.packets"] == len(out)


class Blocks(NF):
    """Drops what goes to one port, counts the rest."""

    def __init__(self) -> None:
        self.n = 0

    @on("packet.tcp", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        self.n += len(batch)
        batch.drop(batch.server_port == 81)
        batch.accept(batch.server_port == 82, rest=True)

    @on("flow.end")
    def ended(self, batch: EventBatch) -> None:
        with pytest.raises(StateError, match="only an inline handler decides"):
            batch.drop()


def test_a_mask_drops_and_a_rest_is_not_asked_for_again(talks: Path, tmp_path: Path) -> None:
    blocks = Blocks()
    report, out = through(talks, tmp_path, blocks)
    want = [f for f in FRAMES[talks] if b"\0\x51" not in (f[34:36], f[36:38])]
    assert by_flow(out) == by_flow(want)
    assert blocks.n < report.packets
    assert report.counters["inline.dropped"] == report.packets // 4
    assert not report.nfs[0].errors


class Translates(NF):
    """Hides the clients behind one address, flow by flow."""

    @on("packet.tcp", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        for event in batch:
            port = 50000 + event.server_port
            event.rewrite(rest=True, src_ip="192.0.2.1", src_port=port, ttl_down=1)


def test_a_rewriting_holds_for_the_flow_and_is_undone_on_the_way_back(tmp_path: Path) -> None:
    there = conversation([("client", b"hello")], server=("10.0.0.2", 80))
    hidden = conversation(
        [("client", b"hello")], client=("192.0.2.1", 50080), server=("10.0.0.2", 80)
    )
    server = ip_address("10.0.0.2").packed
    arriving = [h if f.data[26:30] == server else f for f, h in zip(there, hidden, strict=True)]
    others = datagrams(
        [("client", b"z")] * 64
    )  # a burst and more: the NF has judged before the next one comes
    path = write(tmp_path / "nat.pcap", [f for each in arriving for f in (each, *others)])
    report, out = through(path, tmp_path, Translates)
    out = [frame for frame in out if frame[23] == 6]
    assert report.statistics.flows_opened == 2, "replies belong to the flow"
    for before, want, got in zip(there, hidden, out, strict=True):
        is_reply = before.data[26:30] == ip_address("10.0.0.2").packed
        assert got[26:38] == (before if is_reply else want).data[26:38]
        assert got[22] == before.data[22] - 1
        assert ones_complement(got[14:34]) == 0xFFFF
        assert ones_complement(pseudo(got) + got[34:]) == 0xFFFF


def pseudo(frame: bytes) -> bytes:
    return frame[26:34] + bytes([0, frame[23]]) + (len(frame) - 34).to_bytes(2, "big")


def ones_complement(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Keeps(NF):
    """Keeps a flow's first packet until another flow has said enough."""

    holds = 4

    def __init__(self) -> None:
        self.kept = None
        self.seen = 0

    @on("packet.tcp", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        ports = batch.column("server_port")
        first = np.flatnonzero(ports == 80)
        if self.kept is None and len(first):
            mask = np.zeros(len(batch), np.bool_)
            mask[first[0]] = True
            self.kept = batch.keep(mask)
            with pytest.raises(StateError, match=r"kept\.judge\(\)"):
                self.kept.accept()
        self.seen += int((ports == 83).sum())
        if self.kept is not None and self.seen > 100:
            self.kept.judge()


def test_a_kept_packet_holds_its_flow_back_and_nobody_else(talks: Path, tmp_path: Path) -> None:
    _, out = through(talks, tmp_path, Keeps)
    assert by_flow(out) == by_flow(FRAMES[talks])


class Fails(NF):
    """Cannot judge."""

    @on("packet.tcp", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        raise RuntimeError("no idea")


@pytest.mark.parametrize("fail_open", [True, False])
def test_an_nf_that_fails_takes_its_policy(talks: Path, tmp_path: Path, fail_open: bool) -> None:
    report, out = through(talks, tmp_path, NFUse(Fails, fail_open=fail_open))
    assert out == (FRAMES[talks] if fail_open else [])
    assert report.nfs[0].disabled


def test_inline_without_a_way_out_is_refused(talks: Path) -> None:
    with pytest.raises(SpecError, match="say where these go"):
        mesh.replay(talks, nfs=[PassAll])


class Wrong(NF):
    """Asks for what there is not."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @on("packet.tcp", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        for what in ({"colour": 1}, {}, {"ttl": 1, "ttl_down": 1}, {"src_ip": "x"}):
            try:
                batch.rewrite(**what)
            except (StateError, ValueError) as error:
                self.said.append(str(error))
        batch.accept()


def test_a_rewriting_without_sense_is_an_error_that_helps(talks: Path, tmp_path: Path) -> None:
    wrong = Wrong()
    _, out = through(talks, tmp_path, wrong)
    assert out == FRAMES[talks]
    assert "colour" in wrong.said[0]
    assert "src_ip" in wrong.said[1]
    assert "not both" in wrong.said[2]
    assert "'x'" in wrong.said[3]


class Answers(NF):
    """Drops what it hears and sends a frame of its own instead."""

    subscribes = (Subscription(("packet.udp",), mode="inline"),)

    def handle(self, batch: EventBatch) -> None:
        """Sends each frame backwards."""
        batch.drop()
        for event in batch:
            self.inject(bytes(event.frame)[::-1], int(event.in_port) + 1)


def test_an_nf_sends_frames_of_its_own(tmp_path: Path) -> None:
    said = [("client", number.to_bytes(4, "big")) for number in range(600)]
    path = write(tmp_path / "in.pcapng", datagrams(said))
    report, frames = through(path, tmp_path, Answers)
    assert [frame[::-1] for frame in frames] == FRAMES[path]
    assert report.counters["inline.injected"] == len(frames)


class Listens(NF):
    """Tries to send, and only observes."""

    @on("packet.udp")
    def hear(self, batch: EventBatch) -> None:
        """Is refused."""
        self.inject(b"x" * 60, 1)


def test_who_only_observes_sends_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "in.pcapng", datagrams([("client", b"x")]))
    report, frames = through(path, tmp_path, Listens)
    assert frames == FRAMES[path]
    assert isinstance(report.errors[0].cause, StateError)
    assert "only an inline NF" in str(report.errors[0])


def test_an_edit_chooses_the_port(tmp_path: Path) -> None:
    class Turns(PassAll):
        """Sends packets by the port that they would leave by."""

        def handle(self, batch: EventBatch) -> None:
            batch.rewrite(out=1, dst_mac="02:00:00:00:00:99")

    path = write(tmp_path / "in.pcapng", datagrams([("client", b"x")]))
    _, [frame] = through(path, tmp_path, Turns)
    assert frame[:6].hex() == "020000000099"
