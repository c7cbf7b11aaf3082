# SPDX-License-Identifier: Apache-2.0
"""Batches: columns, views, selections, and what they are worth after the handler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mesh import NF, EventBatch, on
from mesh.columns import address_text
from mesh.errors import StateError
from mesh.testing import ACK, PSH, START_NS, TcpSide, conversation, datagrams, replay_frames, timed

REQUEST = b"GET /a HTTP/1.1\r\nHost: one.example\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"


def inspect(
    events: tuple[str, ...],
    look: Callable[[EventBatch], object],
    frames: list | None = None,
    where: str | None = None,
) -> object:
    """Runs `look` on the first batch of a conversation and returns what it returned."""

    class Look(NF):
        seen: object = None

        @on(*events, where=where)
        def handler(self, batch: EventBatch) -> None:
            if self.seen is None:
                self.seen = look(batch)

    probe = Look()
    if frames is None:
        frames = conversation([("client", REQUEST), ("server", ANSWER)])
    report = replay_frames(frames, [probe])
    if report.errors:
        raise report.errors[0].cause
    return probe.seen


def test_columns_have_the_kinds_of_their_fields():
    def look(batch: EventBatch) -> dict[str, tuple[str, tuple[int, ...]]]:
        names = ("src_port", "ts", "flow", "proto", "again", "wire_len", "src_ip")
        return {name: (str(batch.column(name).dtype), batch.column(name).shape) for name in names}

    n = 3 + 4 + 3
    assert inspect(("packet.tcp",), look) == {
        "src_port": ("uint16", (n,)),
        "ts": ("int64", (n,)),
        "flow": ("uint64", (n,)),
        "proto": ("uint8", (n,)),
        "again": ("bool", (n,)),
        "wire_len": ("uint32", (n,)),
        "src_ip": ("uint8", (n, 16)),
    }


def test_values_are_those_of_the_packets():
    def look(batch: EventBatch) -> list[tuple[object, ...]]:
        return [(e.src_ip, e.src_port, e.dst_ip, e.dst_port, e.ts, e.from_client) for e in batch][
            :2
        ]

    assert inspect(("packet.tcp",), look) == [
        ("10.0.0.1", 40000, "10.0.0.2", 80, START_NS, True),
        ("10.0.0.2", 80, "10.0.0.1", 40000, START_NS + 1_000_000, False),
    ]


def test_attribute_columns_and_views_agree():
    def look(batch: EventBatch) -> bool:
        for name in batch.fields:
            if name in ("events", "data", "payload"):
                continue
            column = getattr(batch, name)
            listed = column.tolist() if isinstance(column, np.ndarray) else column
            viewed = [getattr(event, name) for event in batch]
            assert viewed == listed or name in ("conn_state", "tunnel"), name
        return True

    assert inspect(("packet.tcp",), look)


def test_ipv6_addresses_are_text():
    frames = conversation(client=("2001:db8::1", 1000), server=("2001:db8::2", 2000))
    assert inspect(("packet.tcp",), lambda b: b.src_ip[:2], frames) == [
        "2001:db8::1",
        "2001:db8::2",
    ]


@pytest.mark.parametrize(
    ("raw", "version", "text"),
    [
        (bytes([10, 0, 0, 1]) + bytes(12), 4, "10.0.0.1"),
        (bytes([0x20, 1]) + bytes(14), 6, "2001::"),
        (bytes(16), 4, "0.0.0.0"),
        (bytes(16), 6, "::"),
        (bytes(15) + b"\1", 6, "::1"),
    ],
)
def test_address_text(raw: bytes, version: int, text: str):
    assert address_text(raw, version) == text


def test_data_lies_in_the_slot_and_is_read_only():
    def look(batch: EventBatch) -> list[bytes]:
        views = [event.data for event in batch]
        assert all(isinstance(view, memoryview) and view.readonly for view in views)
        assert batch.bytes("data") == [bytes(view) for view in views]
        return batch.bytes("data")

    assert inspect(("tcp.data",), look) == [REQUEST, ANSWER]


def test_a_view_kept_too_long_still_points_to_mapped_memory():
    kept: list[memoryview] = []
    inspect(("tcp.data",), lambda batch: kept.extend(batch.data))
    assert [len(view) for view in kept] == [len(REQUEST), len(ANSWER)]
    assert sum(bytes(kept[0])) >= 0


def test_frames_are_whole():
    frames = conversation([("client", REQUEST)])
    seen = inspect(("packet.tcp",), lambda b: [bytes(event.frame) for event in b], frames)
    assert seen == [frame.data for frame in frames]


def test_states_and_reasons_are_words_in_views_and_numbers_in_columns():
    def look(batch: EventBatch) -> tuple[object, ...]:
        [event] = batch
        return event.conn_state, event.reason, batch.text("conn_state"), batch.conn_state.dtype

    assert inspect(("flow.end",), look) == ("SF", "fin", ["SF"], np.dtype(np.uint8))


def test_has_and_of_tell_events_apart():
    def look(batch: EventBatch) -> tuple[object, ...]:
        handshake = batch.has("tcp.handshake").tolist()
        data = batch.of("tcp.data")
        ends = batch.of("flow.end")
        assert [e.type for e in ends] == ["flow.end"]
        return handshake.count(True), data.column("data_len").tolist(), ends.c2s_packets.tolist()

    events = ("tcp.handshake", "tcp.data", "flow.end")
    assert inspect(events, look) == (2, [len(REQUEST), len(ANSWER)], [6])


def test_a_field_of_one_type_is_read_through_the_view():
    def look(batch: EventBatch) -> list[object]:
        with pytest.raises(AttributeError, match="share no field 'host'"):
            _ = batch.host
        return [
            event.host if event.is_a("http.request") else event.status
            for event in batch
            if event.is_a("http.request") or event.is_a("http.response")
        ]

    assert inspect(("http",), look) == ["one.example", 200]


def test_text_fields_are_str():
    assert inspect(("http.request",), lambda b: (b.method, b.target)) == (["GET"], ["/a"])


def test_where_keeps_the_order():
    def look(batch: EventBatch) -> list[int]:
        chosen = batch.where(batch.src_port == 80)
        assert [event.src_port for event in chosen] == [80] * len(chosen)
        return chosen.packet.tolist()

    assert inspect(("packet.tcp",), look) == [2, 5, 6, 9]


def test_indexing_and_length():
    def look(batch: EventBatch) -> tuple[int, int, int]:
        with pytest.raises(IndexError):
            _ = batch[len(batch)]
        return len(batch), batch[0].packet, batch[-1].packet

    assert inspect(("packet.tcp",), look) == (10, 1, 10)


def test_unknown_fields_come_with_the_closest():
    def look(batch: EventBatch) -> None:
        with pytest.raises(AttributeError, match=r"'src_prt'; did you mean 'src_port'"):
            _ = batch.src_prt
        with pytest.raises(AttributeError, match=r"'src_prt'; did you mean 'src_port'"):
            _ = batch[0].src_prt

    inspect(("packet.tcp",), look)


def test_event_bits_are_those_asked_for():
    def look(batch: EventBatch) -> tuple[list[int], list[str]]:
        return batch.events.tolist(), [event.type for event in batch]

    bits, types = inspect(("tcp.handshake",), look)  # type: ignore[misc]
    assert bits == [1 << 8, 1 << 9]
    assert types == ["tcp.handshake.syn", "tcp.handshake.established"]


def test_seconds():
    seconds = inspect(("packet.tcp",), lambda batch: batch.seconds[:2].tolist())
    assert seconds == pytest.approx([START_NS / 1e9, START_NS / 1e9 + 1e-3])


def test_a_batch_is_closed_when_its_handler_returns():
    kept: list[EventBatch] = []
    inspect(("packet.tcp",), kept.append)
    with pytest.raises(StateError, match="copy what you keep"):
        kept[0].column("ts")


def test_columns_gathered_in_time_stay():
    kept: list[EventBatch] = []

    def look(batch: EventBatch) -> None:
        assert len(batch.src_port)
        kept.append(batch)

    inspect(("packet.tcp",), look)
    assert kept[0].src_port[0] == 40000


def test_datagrams_have_their_payload():
    frames = datagrams([("client", b"ping"), ("server", b"pong")])
    assert inspect(("udp.datagram",), lambda b: b.bytes("data"), frames) == [b"ping", b"pong"]


def test_out_of_order_bytes_come_in_order():
    a, b = TcpSide("10.0.0.1", 1, 99), TcpSide("10.0.0.2", 2, 99)
    a.peer, b.peer = b, a
    frames = [a.send(flags=2), b.send(flags=18), a.send()]
    frames.append(a.send(b"world", PSH | ACK, seq=a.seq + 6))
    frames.append(a.send(b"hello ", PSH | ACK, seq=a.seq))

    def look(batch: EventBatch) -> tuple[bytes, list[int]]:
        return b"".join(batch.bytes("data")), batch.stream_off.tolist()

    assert inspect(("tcp.data",), look, timed(frames)) == (b"hello world", [0, 6])


def test_types_are_ids_of_the_catalogue():
    def look(batch: EventBatch) -> list[str]:
        names = [event.type for event in batch]
        catalogue = batch._schema.catalogue
        assert [catalogue.by_id(number).name for number in batch.types.tolist()] == names
        return names

    assert inspect(("tcp.handshake", "tcp.data", "flow.end"), look) == [
        "tcp.handshake.syn",
        "tcp.handshake.established",
        "tcp.data",
        "tcp.data",
        "flow.end",
    ]
