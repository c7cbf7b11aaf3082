# SPDX-License-Identifier: Apache-2.0
import csv
import hashlib
import json

import pytest

from mesh.errors import NFError
from mesh.testing import ACK, PSH, SYN, TcpSide, conversation, datagrams, replay_frames, timed
from nfs.flow_log.nf import FlowLog

REQUEST, RESPONSE = b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 20


def log_of(frames, **options):
    log = FlowLog(order="start", **options)
    report = replay_frames(frames, [log])
    assert not report.errors
    return list(log.records())


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_a_connection_becomes_one_complete_record():
    frames = conversation([("client", REQUEST), ("server", RESPONSE)])
    [record] = log_of(frames)
    assert record == {
        "proto": "tcp",
        "client": "10.0.0.1:40000",
        "server": "10.0.0.2:80",
        "client_basis": "syn",
        "state": "SF",
        "start": frames[0].ts_ns / 1e9,
        "duration": pytest.approx((frames[-1].ts_ns - frames[0].ts_ns) / 1e9),
        "c2s": {
            "packets": 9,
            "payload_bytes": len(REQUEST),
            "stream_bytes": len(REQUEST),
            "gap_bytes": 0,
            "sha256": sha256(REQUEST),
            "retransmitted": 0,
            "out_of_order": 0,
        },
        "s2c": {
            "packets": 7,
            "payload_bytes": len(RESPONSE),
            "stream_bytes": len(RESPONSE),
            "gap_bytes": 0,
            "sha256": sha256(RESPONSE),
            "retransmitted": 0,
            "out_of_order": 0,
        },
    }


@pytest.mark.parametrize("mss", [1, 7, 1460])
def test_how_the_bytes_were_cut_does_not_change_the_hash(mss):
    [record] = log_of(conversation([("server", RESPONSE[:300])], mss=mss))
    assert record["s2c"]["sha256"] == sha256(RESPONSE[:300])
    assert record["s2c"]["stream_bytes"] == 300


def test_ipv6_addresses_stand_in_brackets():
    [record] = log_of(conversation(client=("2001:db8::1", 5), server=("2001:db8::2", 80)))
    assert (record["client"], record["server"]) == ("[2001:db8::1]:5", "[2001:db8::2]:80")


def test_a_side_without_bytes_has_the_hash_of_nothing():
    [record] = log_of(conversation())
    assert record["c2s"]["sha256"] == sha256(b"")


def test_udp_has_totals_but_no_stream():
    [record] = log_of(datagrams([("client", b"who?"), ("server", b"me, me")]))
    assert record["proto"] == "udp"
    assert record["state"] is None
    assert record["client_basis"] == "first-packet"
    assert record["c2s"]["payload_bytes"] == 4
    assert record["s2c"]["payload_bytes"] == 6
    assert record["s2c"]["sha256"] is None


def test_the_client_is_found_behind_a_syn_ack():
    frames = conversation([("server", b"220 ready")])[1:]
    [record] = log_of(frames)
    assert record["client"] == "10.0.0.1:40000"
    assert record["client_basis"] == "synack"
    assert record["s2c"]["sha256"] == sha256(b"220 ready")


def test_holes_are_counted_and_skipped_by_the_hash():
    a, b = TcpSide("10.0.0.1", 1, 100), TcpSide("10.0.0.2", 2, 900)
    a.peer, b.peer = b, a
    frames = [a.send(flags=SYN), b.send(flags=SYN | ACK), a.send(), a.send(b"head", PSH | ACK)]
    a.send(b"lost!")
    frames += [b.send(), a.send(b"tail", PSH | ACK), b.send()]
    [record] = log_of(timed(frames, step_ns=2_000_000_000))
    assert record["c2s"]["gap_bytes"] == 5
    assert record["c2s"]["stream_bytes"] == 8
    assert record["c2s"]["sha256"] == sha256(b"headtail")


def test_records_come_in_order_of_the_first_packet():
    late = conversation([("client", b"x")], client=("10.0.0.3", 3))
    early = conversation([("client", b"x")], client=("10.0.0.2", 2), close="none")
    frames = [early[0], *late, *early[1:]]
    assert [record["client"] for record in log_of(frames)] == ["10.0.0.2:2", "10.0.0.3:3"]


def test_json_lines_and_csv_hold_the_same_records(tmp_path):
    frames = conversation([("client", REQUEST)]) + datagrams([("client", b"?")])
    for form in ("json", "csv"):
        log = FlowLog(path=f"flows.{form}", format=form)
        assert not replay_frames(frames, [log], out=tmp_path).errors
    lines = [json.loads(line) for line in (tmp_path / "flows.json").read_text().splitlines()]
    with (tmp_path / "flows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(lines) == len(rows) == 2
    assert [row["c2s_sha256"] or None for row in rows] == [r["c2s"]["sha256"] for r in lines]
    assert [int(row["c2s_packets"]) for row in rows] == [r["c2s"]["packets"] for r in lines]


def test_parquet_holds_the_same_records(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    frames = conversation([("client", REQUEST)]) + datagrams([("client", b"?")])
    log = FlowLog(path="flows.parquet", format="parquet", order="start")
    assert not replay_frames(frames, [log], out=tmp_path).errors
    rows = parquet.read_table(tmp_path / "flows.parquet").to_pylist()
    assert [row["proto"] for row in rows] == ["tcp", "udp"]
    assert rows[0]["c2s_sha256"] == sha256(REQUEST)
    assert rows[1]["state"] is None


def test_a_file_that_cannot_be_written_is_an_error_of_the_start(tmp_path):
    with pytest.raises(NFError, match="in start: FileNotFoundError") as caught:
        replay_frames(conversation(), [FlowLog(path="no/such/folder")], out=tmp_path)
    assert isinstance(caught.value.cause, OSError)


@pytest.mark.parametrize(
    ("path", "begins"), [("x.csv", b"proto,"), ("x.parquet", b"PAR1"), ("x", b'{"proto"')]
)
def test_the_name_of_the_file_tells_the_format(tmp_path, path, begins):
    if path.endswith("parquet"):
        pytest.importorskip("pyarrow")
    replay_frames(conversation(), [FlowLog(path=path)], out=tmp_path)
    assert (tmp_path / path).read_bytes().startswith(begins)


def test_results_count_connections_by_kind():
    frames = conversation() + datagrams([("client", b"?")])
    results = replay_frames(frames, [FlowLog()])["flow_log"].results
    assert results["connections"] == 2
    assert {"kind": "tcp SF", "connections": 1} in results["kinds"]
