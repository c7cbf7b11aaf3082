# SPDX-License-Identifier: Apache-2.0
"""Inline NFs on bytes and on what modules find in them: nothing unjudged leaves."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from test_inline import ones_complement, pseudo, through

from mesh import NF, EventBatch, on
from mesh.compose import NFUse
from mesh.errors import PlanError
from mesh.testing import (
    ACK,
    FIN,
    PSH,
    SYN,
    Frame,
    TcpSide,
    conversation,
    datagrams,
    timed,
    write_capture,
)

WORD = b"attack"
ISN = 1000


class Guards(NF):
    """Rejects streams that say a word, wherever their segments are cut."""

    name = "guards"

    def __init__(self) -> None:
        self.said: dict[tuple[int, bool], bytes] = defaultdict(bytes)
        self.caught = 0

    @on("tcp.data", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        for event in batch:
            key = (event.flow, event.from_client)
            said = self.said[key][-len(WORD) :] + bytes(event.data)
            self.said[key] = said
            if WORD in said:
                self.caught += 1
                event.reject()


def segments(parts: Sequence[tuple[int, bytes]]) -> list[Frame]:
    """A connection whose client sends parts at places of its stream, in this order."""
    a, b = TcpSide("10.0.0.1", 40000, ISN), TcpSide("10.0.0.2", 80, 5000)
    a.peer, b.peer = b, a
    frames = [a.send(flags=SYN), b.send(flags=SYN | ACK), a.send()]
    frames += [a.send(data, PSH | ACK, seq=ISN + 1 + at) for at, data in parts]
    return timed(frames)


def streams(frames: Sequence[bytes], last_wins: bool) -> bytes:
    """What the server makes of the frames that reach it, by one or the other policy."""
    found: dict[int, int] = {}
    for frame in frames:
        if frame[23] != 6 or frame[26:30] != bytes([10, 0, 0, 1]):
            continue
        assert ones_complement(frame[14:34]) == 0xFFFF
        assert ones_complement(pseudo(frame) + frame[34:]) == 0xFFFF
        at = int.from_bytes(frame[38:42], "big") - (ISN + 1)
        payload = frame[34 + (frame[46] >> 4) * 4 :]
        for place, byte in enumerate(payload, at):
            if last_wins or place not in found:
                found[place] = byte
    whole = bytearray()
    while len(whole) in found:
        whole.append(found[len(whole)])
    return bytes(whole)


EVASIONS = {
    "one segment": [(0, b"GET /attack")],
    "cut": [(0, b"GET /at"), (7, b"tack")],
    "bytes": [(i, b"GET /attack"[i : i + 1]) for i in range(11)],
    "reordered": [(7, b"tack"), (0, b"GET /at")],
    "backwards": [(i, b"GET /attack"[i : i + 1]) for i in reversed(range(11))],
    "a copy with other bytes": [(0, b"GET /harm"), (5, b"attack"), (9, b"less")],
    "a later part is there before": [(5, b"attack"), (0, b"GET /harmless"), (0, b"GET /attack")],
    "overlapped from the left": [(7, b"xxxx"), (3, b" /attack"), (0, b"GET")],
    "overlapped from behind": [(0, b"GET /at"), (5, b"xxtack")],
}


@pytest.mark.parametrize("parts", EVASIONS.values(), ids=EVASIONS.keys())
def test_a_word_does_not_get_through(parts: list[tuple[int, bytes]], tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    write_capture(path, segments(parts))
    guard = Guards()
    report, out = through(path, tmp_path, guard)
    assert not report.nfs[0].errors
    for last_wins in (False, True):
        assert WORD not in streams(out, last_wins)
    assert guard.caught or b"harm" in streams(out, True) or b"x" in streams(out, True)


def test_harmless_bytes_pass_in_order_whatever_order_they_came_in(tmp_path: Path) -> None:
    text = bytes(range(256)) * 4
    parts = [(at, text[at : at + 64]) for at in range(0, len(text), 64)]
    order = np.random.default_rng(7).permutation(len(parts))
    path = tmp_path / "in.pcap"
    write_capture(path, segments([parts[i] for i in order] + parts))
    report, out = through(path, tmp_path, Guards)
    assert streams(out, False) == streams(out, True) == text
    assert report.counters["inline.withheld"] > 0
    sent = [f for f in out if len(f) > 54]
    first = [int.from_bytes(f[38:42], "big") for f in sent[: len(parts)]]
    assert first == sorted(first)


class Replaces(NF):
    """Says something else."""

    @on("tcp.data", "udp.datagram", mode="inline", edits=True)
    def judge(self, batch: EventBatch) -> None:
        for i, data in enumerate(batch.views("data")):
            batch.replace(i, re.sub(rb"secret", b"(nothing to see)", bytes(data)))


def test_other_bytes_leave_and_what_follows_is_numbered_anew(tmp_path: Path) -> None:
    parts = [(0, b"a secret "), (9, b"or two secrets"), (0, b"a secret or two secrets"), (23, b".")]
    path = tmp_path / "in.pcap"
    write_capture(path, segments(parts))
    report, out = through(path, tmp_path, Replaces)
    want = b"a (nothing to see) or two (nothing to see)s."
    assert streams(out, False) == streams(out, True) == want
    assert report.counters["inline.replaced"] == 3
    assert not report.nfs[0].errors


def test_a_datagram_leaves_with_other_bytes(tmp_path: Path) -> None:
    frames = datagrams([("client", b"a secret"), ("server", b"none"), ("client", b"secret" * 300)])
    path = tmp_path / "in.pcap"
    write_capture(path, frames)
    report, out = through(path, tmp_path, Replaces)
    assert [f[42:] for f in out] == [
        b"a (nothing to see)",
        b"none",
        b"(nothing to see)" * 300,
    ]
    for frame in out:
        assert int.from_bytes(frame[38:40], "big") == len(frame) - 34
        assert ones_complement(frame[14:34]) == 0xFFFF
        assert ones_complement(pseudo(frame) + frame[34:]) == 0xFFFF
    assert not report.nfs[0].errors


class Doubles(NF):
    """Makes every byte two."""

    @on("tcp.data", mode="inline", edits=True)
    def judge(self, batch: EventBatch) -> None:
        for event in batch:
            event.replace(bytes(np.repeat(np.frombuffer(event.data, np.uint8), 2)))


def test_as_much_is_replaced_as_there_is(tmp_path: Path) -> None:
    text = np.random.default_rng(3).integers(0, 256, 1_000_000, np.uint8).tobytes()
    path = tmp_path / "in.pcap"
    write_capture(path, segments([(at, text[at : at + 1460]) for at in range(0, len(text), 1460)]))
    report, out = through(path, tmp_path, NFUse(Doubles))
    assert not report.nfs[0].errors
    print(report.counters)
    assert streams(out, False) == bytes(np.repeat(np.frombuffer(text, np.uint8), 2))
    assert max(map(len, out)) == 1514


def test_acknowledgements_are_translated(tmp_path: Path) -> None:
    said = [("client", b"my secret"), ("server", b"what secret?"), ("client", b"none")]
    frames = conversation(said, isn=(ISN, 5000))  # type: ignore[arg-type]
    grown = len("(nothing to see)") - len("secret")
    path = tmp_path / "in.pcap"
    write_capture(path, frames)
    _, out = through(path, tmp_path, Replaces)
    client = [f for f in out if f[26:30] == bytes([10, 0, 0, 1])]
    assert streams(out, False) == b"my (nothing to see)none"
    fin = next(f for f in client if f[47] & FIN)
    assert int.from_bytes(fin[38:42], "big") == ISN + 1 + len("my secretnone") + grown


class Hides(NF):
    """Hides clients behind another address, flow by flow."""

    @on("packet.tcp", mode="inline", edits=True)
    def judge(self, batch: EventBatch) -> None:
        batch.rewrite(batch.from_client, rest=True, src_ip="192.0.2.1", src_port=50000)


def test_streams_of_rewritten_flows_are_decided_on(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    parts = [(9, b"secret"), (0, b"it is no "), (0, b"it IS NO "), (9, b"SECRET")]
    write_capture(path, segments(parts))
    replaces = NFUse(Replaces, stage=1)
    report, out = through(path, tmp_path, Hides, replaces)
    assert not any(nf.errors for nf in report.nfs)
    sent = [f for f in out if f[34:36] == (50000).to_bytes(2)]
    assert {f[26:30] for f in sent} == {bytes([192, 0, 2, 1])}
    plain = [f[:26] + bytes([10, 0, 0, 1]) + f[30:] for f in sent]
    assert b"".join(f[54:] for f in plain) == b"it is no (nothing to see)it is no (nothing to see)"
    for frame in sent:
        assert ones_complement(frame[14:34]) == 0xFFFF
        assert ones_complement(pseudo(frame) + frame[34:]) == 0xFFFF


class Asks(NF):
    """Blocks requests for one page."""

    @on("http.request", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        for event in batch:
            if event.target == "/blocked":
                event.drop()


@pytest.mark.parametrize("cut", [1, 5, 17, 1460])
def test_a_request_is_dropped_with_its_flow(tmp_path: Path, cut: int) -> None:
    talks = {}
    for port, target in ((40001, b"/blocked"), (40002, b"/open")):
        request = b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        said = [("client", request), ("server", answer)]
        talks[port] = conversation(said, client=("10.0.0.1", port), mss=cut)  # type: ignore[arg-type]
    path = tmp_path / "in.pcap"
    write_capture(path, [frame for talk in talks.values() for frame in talk])
    report, out = through(path, tmp_path, Asks)
    passed = {port: b"".join(f[54:] for f in out if f[34:36] == port.to_bytes(2)) for port in talks}
    assert passed[40002].endswith(b"\r\n\r\n")
    assert b"\r\n\r\n" not in passed[40001], "the request is not complete"
    assert not report.nfs[0].errors
    assert report.counters["inline.dropped"] > 0


class Resolves(NF):
    """Drops questions for one name."""

    @on("dns.query", mode="inline")
    def judge(self, batch: EventBatch) -> None:
        for event in batch:
            if event.qname.startswith("bad"):
                event.drop()


def question(name: str) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return b"\x12\x34\x01\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


def test_a_question_waits_for_its_verdict(tmp_path: Path) -> None:
    frames = []
    for port, name in ((40001, "good.example"), (40002, "bad.example"), (40003, "good.test")):
        frames += datagrams([("client", question(name))] * 3, client=("10.0.0.1", port))
    path = tmp_path / "in.pcap"
    write_capture(path, frames)
    _, out = through(path, tmp_path, Resolves)
    assert out == [f.data for f in frames if b"\3bad" not in f.data]


@pytest.mark.parametrize("event", ["tcp", "flow.end", "tcp.anomaly.gap"])
def test_what_no_packet_can_wait_for_is_refused(event: str, tmp_path: Path) -> None:
    class Late(NF):
        """Decides too late."""

        @on(event, mode="inline")
        def judge(self, batch: EventBatch) -> None: ...

    path = tmp_path / "in.pcap"
    write_capture(path, datagrams([("client", b"x")]))
    with pytest.raises(PlanError, match="packets cannot wait for a verdict on"):
        through(path, tmp_path, Late)
