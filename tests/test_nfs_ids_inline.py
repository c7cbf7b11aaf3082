# SPDX-License-Identifier: Apache-2.0
"""Rules that drop: what leaves when `ids` decides in line."""

import pytest
from ids_rig import need_library
from test_inline import frames_of
from test_inline_streams import EVASIONS, WORD, segments, streams

import mesh
from mesh.ports import Port
from mesh.testing import conversation, datagrams, write_capture
from mesh.uses import NFUse
from nfs.ids.nf import Ids

need_library()


def through(frames, tmp_path, *rules):
    """Sends frames through rules; returns the results and the frames that came out."""
    given, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    write_capture(given, frames, form="pcap")
    use = NFUse(cls=Ids, name="ids", options={"lines": rules}, mode="inline")
    report = mesh.replay(given, [use], sink=Port.record(out, "pcap"))
    assert not report.errors
    return report["ids"].results, frames_of(out)


def rule(options, header="tcp any any -> any any", action="drop", sid=1):
    return f"{action} {header} ({options} sid:{sid};)"


ATTACK = rule('content:"attack";')


@pytest.mark.parametrize("parts", EVASIONS.values(), ids=EVASIONS.keys())
def test_an_attack_does_not_get_through_however_it_is_cut(parts, tmp_path):
    results, out = through(segments(parts), tmp_path, ATTACK)
    for last_wins in (False, True):
        assert WORD not in streams(out, last_wins)
    got = streams(out, True)
    assert results["alerts"] or b"harm" in got or b"x" in got


def test_what_no_rule_drops_passes_as_it_came(tmp_path):
    frames = conversation([("client", b"GET /harmless" * 300), ("server", b"x" * 4000)])
    notice = rule('content:"harmless";', action="alert", sid=2)
    results, out = through(frames, tmp_path, ATTACK, notice)
    assert out == [frame.data for frame in frames]
    assert [row["action"] for row in results["alerts"]] == ["allowed"]


def test_a_dropped_flow_stays_dropped_both_ways(tmp_path):
    said = [("client", b"fine"), ("client", b"attack"), ("client", b"more"), ("server", b"answer")]
    results, out = through(conversation(said), tmp_path, ATTACK)
    payloads = b"".join(frame[54:] for frame in out)
    assert payloads == b"fine"
    assert [row["action"] for row in results["alerts"]] == ["blocked"]


def test_an_attack_in_a_request_is_dropped_before_it_leaves(tmp_path):
    request = b"GET /a/%2e%2e/etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n"
    text = rule('http.uri; content:"../etc/passwd";', "http any any -> any any")
    results, out = through(conversation([("client", request)], mss=7), tmp_path, text)
    assert b"\r\n\r\n" not in b"".join(frame[54:] for frame in out)
    assert [row["action"] for row in results["alerts"]] == ["blocked"]


def test_a_rejected_connection_is_reset(tmp_path):
    _, out = through(
        conversation([("client", b"attack")], close="none"),
        tmp_path,
        rule('content:"attack";', action="reject"),
    )
    assert WORD not in b"".join(out)
    assert any(frame[47] & 4 for frame in out if frame[23] == 6)


def test_datagrams_are_dropped_one_by_one(tmp_path):
    frames = datagrams([("client", b"attack"), ("client", b"fine"), ("client", b"attack")])
    text = rule('content:"attack";', "udp any any -> any any")
    results, out = through(frames, tmp_path, text)
    assert [frame[42:] for frame in out] == [b"fine"]
    assert results["counters"]["dropped"] == 2


def test_what_passes_first_is_not_dropped(tmp_path):
    frames = conversation([("client", b"friend says attack")])
    friend = rule('content:"friend";', action="pass", sid=2)
    results, out = through(frames, tmp_path, ATTACK, friend)
    assert out == [frame.data for frame in frames]
    assert results["alerts"] == []


def test_packets_that_are_dropped_by_their_flags(tmp_path):
    frames = conversation([("client", b"fine")])
    results, out = through(frames, tmp_path, rule("flags:S;"))
    assert len(out) < len(frames)
    assert not [frame for frame in out if frame[47] == 2]
    assert results["counters"]["dropped"] >= 1


def test_rules_that_drop_only_alert_beside_the_packets(tmp_path):
    given = tmp_path / "in.pcap"
    write_capture(given, conversation([("client", b"attack")]), form="pcap")
    report = mesh.replay(given, [Ids(lines=(ATTACK,))])
    [row] = report["ids"].results["alerts"]
    assert (row["sid"], row["action"]) == (1, "allowed")
    assert report["ids"].results["counters"]["dropped"] == 0
