# SPDX-License-Identifier: Apache-2.0
"""Messages: whatever bytes come, they are taken or refused and counted; nothing crashes."""

import hmac
import ipaddress
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.control import messages as m
from mesh.control.seal import MAX_BYTES, Opener, Reason, Refused, Sealer
from mesh.control.stats import HostStats, NFStats, RingStats, WorkerStats

KEY = b"k" * 32
COUNTS = {"packets": 3}
EXAMPLES = [
    m.Piece(of="leave", index=0, total=2, data=b"x"),
    m.Register(role="worker", pid=7, abi=1, cores=[0, 1], revision=2),
    m.Keys(keys={"http_log": KEY}),
    m.Ready(revision=1, effective_from=9, positions={"ring/a/w0": 5}),
    m.Attached(revision=1),
    *(m.Hold(revision=2), m.Held(revision=2)),
    m.Heartbeat(revision=1),
    m.Heartbeat(stats=WorkerStats(statistics=COUNTS)),
    m.Heartbeat(stats=NFStats(rings=[RingStats(ring="ring/a/w0", entries=64, head=9, tail=4)])),
    m.Heartbeat(stats=HostStats(notices=["no huge pages"])),
    m.Drained(position={"ring/a/w0": 5}),
    m.Eof(source="x.pcap", seconds=0.5, statistics=COUNTS, counters={}),
    m.Result(report={"name": "a", "results": {"deep": [1, {"x": None}]}}),
    m.Failed(where="start", text="no", fatal=True),
    m.Published(events=[m.PublishedEvent(event="a.b", ts_ns=-1, fields={"x": b"\x00"})]),
    m.PlanPart(revision=3, part={"nf": "a"}, after={"ring/a/w0": 5}),
    *(m.Go(revision=1), m.Drain(reason="stop"), m.Leave(), m.StatsRequest(), m.Seen(), m.Who()),
    m.Watch(events=["a.b"]),
    m.Finished(report={}, start_failed=["a"]),
    *(m.Status(), m.Functions(), m.Stop(now=True), m.Apply(spec={"nfs": []}), m.NfRemove(nf="a")),
    *(m.NfPut(entries=[{"use": "http_log"}], dry_run=True), m.Away(name="a")),
    m.NfAdd(entry={"use": "http_log"}),
    *(m.Record(process="worker-0", path="/p", port=1), m.RecordEnd(process="a", path="/p")),
    m.Subscribe(nf="a", events=["tcp.syn"], where="port 80"),
    m.Unsubscribe(nf="a"),
    *(m.Ok(request=4, result={"x": 1}), m.Error(request=4, text="no", path="nfs[0]")),
]


def opener() -> Opener:
    return Opener({"a": KEY}.get)


def frames_of(head: object, key: bytes = KEY) -> list[bytes]:
    raw = head if isinstance(head, bytes) else msgpack.packb(head)
    return [raw, hmac.digest(key, raw, "sha256")]


def head(**changes: object) -> dict[str, object]:
    whole = {"v": 1, "type": "leave", "name": "a", "session": 5, "seq": 1, "body": {}}
    return {k: v for k, v in {**whole, **changes}.items() if v is not ...}


def test_every_message_has_an_example() -> None:
    assert {type(each) for each in EXAMPLES} == set(m.BODIES.values())


@pytest.mark.parametrize("body", EXAMPLES, ids=lambda body: body.TYPE)
def test_what_is_sealed_is_opened_unchanged(body: m.Body) -> None:
    taken = opener().open(Sealer("a", 5).seal(body, KEY)[0])
    assert (taken.name, taken.session, taken.seq, taken.body) == ("a", 5, 1, body)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], Reason.FRAMES),
        ([b"x"], Reason.FRAMES),
        ([b"x", b"y", b"z"], Reason.FRAMES),
        ([b"\xc1", b""], Reason.NOT_MSGPACK),
        ([b"", b""], Reason.NOT_MSGPACK),
        ([b"\x00" * (MAX_BYTES + 1), b""], Reason.TOO_LARGE),
        ([b"\xdd\xff\xff\xff\xff", b""], Reason.NOT_MSGPACK),
        ([b"\x91" * 5000 + b"\x90", b""], Reason.NOT_MSGPACK),
        ([b"\x91" * 40 + b"\x90", b""], Reason.TOO_DEEP),
        (frames_of(7), Reason.ENVELOPE),
        (frames_of(head(v=2)), Reason.VERSION),
        (frames_of(head(v=...)), Reason.VERSION),
        (frames_of(head(v=[1])), Reason.VERSION),
        (frames_of(head(type="what")), Reason.TYPE),
        (frames_of(head(type=3)), Reason.ENVELOPE),
        (frames_of(head(more=1)), Reason.ENVELOPE),
        (frames_of(head(body=...)), Reason.ENVELOPE),
        (frames_of(head(seq=0)), Reason.ENVELOPE),
        (frames_of(head(seq="1")), Reason.ENVELOPE),
        (frames_of(head(session=-1)), Reason.ENVELOPE),
        (frames_of(head(name="a b")), Reason.ENVELOPE),
        (frames_of(head(name="b")), Reason.NAME),
        (frames_of(head(), b"wrong"), Reason.MAC),
        ([msgpack.packb(head()), b""], Reason.MAC),
        (frames_of(head(body={"x": 1})), Reason.SCHEMA),
        (frames_of(head(type="go", body={"revision": "1"})), Reason.SCHEMA),
        (frames_of(head(type="go", body={"revision": True})), Reason.SCHEMA),
        (frames_of(head(type="go", body={"revision": -1})), Reason.SCHEMA),
        (frames_of(head(type="keys", body={"keys": {"a": b"short"}})), Reason.SCHEMA),
        (frames_of(head(type="register", body={"role": "king", "pid": 1})), Reason.SCHEMA),
    ],
)
def test_a_refusal_has_its_reason_and_is_counted(frames: list[bytes], reason: Reason) -> None:
    receiver = opener()
    with pytest.raises(Refused) as caught:
        receiver.open(frames)
    assert caught.value.reason is reason
    assert receiver.refused == {reason: 1}


def test_a_message_is_taken_once() -> None:
    receiver, sender = opener(), Sealer("a", 5)
    first, second = (sender.seal(m.Leave(), KEY)[0] for _ in range(2))
    receiver.open(second)
    for late in (first, second):
        with pytest.raises(Refused, match="replay"):
            receiver.open(late)
    other = Sealer("a", 6).seal(m.Leave(), KEY)[0]
    assert receiver.open(other).session == 6
    assert receiver.refused == {Reason.REPLAY: 2}


def test_a_stranger_cannot_spend_a_number_of_another() -> None:
    receiver = opener()
    with pytest.raises(Refused):
        receiver.open(frames_of(head(seq=100), b"guess"))
    assert receiver.open(frames_of(head(seq=1))).seq == 1


def test_a_refused_body_does_not_come_again() -> None:
    receiver = opener()
    bad = frames_of(head(body={"x": 1}))
    for reason in ("schema", "replay"):
        with pytest.raises(Refused, match=reason):
            receiver.open(bad)


LONG = m.Result(report={"results": {"rows": ["x" * 1000] * 2000}})


def test_a_long_message_comes_in_pieces() -> None:
    receiver = opener()
    messages = Sealer("a", 5).seal(LONG, KEY)
    assert len(messages) == 4
    bodies = [receiver.open(frames).body for frames in messages]
    assert [type(body) for body in bodies] == [m.Piece, m.Piece, m.Piece, m.Result]
    assert bodies[-1] == LONG


@pytest.mark.parametrize("order", [[1], [0, 2], [0, 1, 1], [0, 1, 0, 2]])
def test_pieces_out_of_order_are_refused(order: list[int]) -> None:
    receiver, pieces = opener(), [*range(4)]
    sealer = Sealer("a", 5)
    for at in order[:-1]:
        receiver.open(sealer._frames("piece", piece_of(LONG, pieces[at]), KEY))
    with pytest.raises(Refused, match="piece"):
        receiver.open(sealer._frames("piece", piece_of(LONG, pieces[order[-1]]), KEY))


def piece_of(body: m.Body, index: int) -> dict[str, object]:
    return opener().open(Sealer("a").seal(body, KEY)[index]).body.model_dump() if index == 0 else {
        "of": body.TYPE, "index": index, "total": 4, "data": b"x"
    }  # fmt: skip


@pytest.mark.parametrize(("of", "reason"), [("piece", "type"), ("what", "type"), ("go", "schema")])
def test_a_whole_made_of_pieces_is_checked_like_any_other(of: str, reason: str) -> None:
    whole = {"of": of, "index": 0, "total": 1, "data": msgpack.packb({"x": 1})}
    with pytest.raises(Refused, match=reason):
        opener().open(frames_of(head(type="piece", body=whole)))


def test_too_long_or_too_deep_a_message_is_not_sent() -> None:
    with pytest.raises(Refused, match="too_large"):
        Sealer("a").seal(m.Result(report={"x": "y" * (MAX_BYTES * 65)}), KEY)
    deep: list[object] = []
    for _ in range(50):
        deep = [deep]
    with pytest.raises(Refused, match="too_deep"):
        Sealer("a").seal(m.Result(report={"x": deep}), KEY)


def test_values_that_msgpack_lacks_become_plain() -> None:
    values = {
        "n": np.int64(3),
        "f": np.float32(0.5),
        "a": ipaddress.ip_address("192.0.2.1"),
        "p": Path("/x"),
        "s": {1},
        (1, 2): 1 << 70,
        "odd": "\udcff",
    }
    sealed = Sealer("a", 5).seal(m.Result(report={"results": values}), KEY)[0]
    body = opener().open(sealed).body
    assert isinstance(body, m.Result)
    assert body.report["results"] == {
        "n": 3,
        "f": 0.5,
        "a": "192.0.2.1",
        "p": "/x",
        "s": [1],
        "(1, 2)": str(1 << 70),
        "odd": "\udcff",
    }


def outcome(receiver: Opener, frames: list[bytes]) -> str:
    try:
        receiver.open(frames)
    except Refused as error:
        return error.reason
    return "taken"


@settings(max_examples=400, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_bytes_are_refused_and_counted(frames: list[bytes]) -> None:
    receiver = opener()
    assert outcome(receiver, frames) != "taken"
    assert receiver.refused.total() == 1


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(EXAMPLES),
    st.dictionaries(
        st.sampled_from(["v", "type", "name", "session", "seq", "body", "x"]), _VALUES, max_size=2
    ),
    st.dictionaries(st.text(max_size=8), _VALUES, max_size=2),
)
def test_any_authentic_map_is_taken_or_refused(
    body: m.Body, envelope: dict[str, object], inside: dict[str, object]
) -> None:
    receiver = opener()
    whole = {**head(type=body.TYPE, body={**body.model_dump(), **inside}), **envelope}
    result = outcome(receiver, frames_of(whole))
    assert receiver.refused.total() == (result != "taken")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(EXAMPLES), st.data())
def test_a_changed_byte_is_refused(body: m.Body, data: st.DataObject) -> None:
    frames = Sealer("a", 5).seal(body, KEY)[0]
    which = data.draw(st.integers(0, 1))
    at = data.draw(st.integers(0, len(frames[which]) - 1))
    changed = bytearray(frames[which])
    changed[at] ^= data.draw(st.integers(1, 255))
    frames[which] = bytes(changed)
    assert outcome(opener(), frames) != "taken"
