# SPDX-License-Identifier: Apache-2.0
"""However a stream is cut, repeated or reordered on the wire, NFs hear the same."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import NF, EventBatch, on
from mesh.testing import ACK, FIN, PSH, SYN, Frame, TcpSide, replay_frames, timed

EXCHANGE = (
    b"POST /form HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello"
    b"GET /next HTTP/1.1\r\nHost: b.example\r\nX-Long: " + b"y" * 300 + b"\r\n\r\n"
)


class Heard(NF):
    """Notes the stream and the requests."""

    def __init__(self) -> None:
        self.stream = b""
        self.requests: list[tuple[str, str, str]] = []

    @on("tcp.data")
    def data(self, batch: EventBatch) -> None:
        assert (batch.stream_off[:1] == len(self.stream)).all()
        self.stream += b"".join(batch.bytes("data"))

    @on("http.request")
    def request(self, batch: EventBatch) -> None:
        self.requests += [(event.method, event.target, event.host) for event in batch]


def pieces(cuts: list[int], order: list[int], again: set[int]) -> list[Frame]:
    """Frames that carry EXCHANGE cut at `cuts`, sent in `order`, some of them twice."""
    a, b = TcpSide("10.0.0.1", 40000, 2**32 - 100), TcpSide("10.0.0.2", 80, 7)
    a.peer, b.peer = b, a
    frames = [a.send(flags=SYN), b.send(flags=SYN | ACK), a.send()]
    places = [0, *sorted(set(cuts)), len(EXCHANGE)]
    spans = list(itertools.pairwise(places))
    for number in sorted(range(len(spans)), key=lambda i: order[i % len(order)]):
        first, last = spans[number]
        for _ in range(2 if number in again else 1):
            frames.append(a.send(EXCHANGE[first:last], PSH | ACK, seq=a.seq + first))
    a.seq += len(EXCHANGE)
    frames += [b.send(), a.send(flags=FIN | ACK), b.send(flags=FIN | ACK), a.send()]
    return timed(frames)


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(1, len(EXCHANGE) - 1), max_size=12),
    order=st.lists(st.integers(0, 9), min_size=1, max_size=13),
    again=st.sets(st.integers(0, 12), max_size=3),
)
def test_any_cut_and_order_gives_the_same_events(
    cuts: list[int], order: list[int], again: set[int]
):
    heard = Heard()
    report = replay_frames(pieces(cuts, order, again), [heard])
    assert not report.errors
    assert heard.stream == EXCHANGE
    assert heard.requests == [("POST", "/form", "a.example"), ("GET", "/next", "b.example")]


def test_byte_by_byte():
    heard = Heard()
    report = replay_frames(pieces(list(range(1, len(EXCHANGE))), [0], set()), [heard])
    assert not report.errors
    assert heard.stream == EXCHANGE
    assert len(heard.requests) == 2
