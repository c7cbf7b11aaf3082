# SPDX-License-Identifier: Apache-2.0
import struct

from mesh.testing import conversation, datagrams, replay_frames
from nfs.dns_log.nf import DnsLog


def query(ident, name, qtype=1):
    labels = b"".join(bytes([len(x)]) + x.encode() for x in name.split("."))
    return struct.pack(">6H", ident, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, qtype, 1)


def answer(ident, name, address=None, rcode=0):
    question = query(ident, name)[12:]
    count = address is not None
    head = struct.pack(">6H", ident, 0x8180 | rcode, 1, count, 0, 0)
    record = (
        struct.pack(">HHHIH4s", 0xC00C, 1, 1, 60, 4, bytes(map(int, address.split("."))))
        if count
        else b""
    )
    return head + question + record


def log(frames, **options):
    report = replay_frames(frames, [DnsLog(**options)])
    assert not report.errors
    return report["dns_log"].results


def test_query_and_response_become_one_record():
    frames = datagrams(
        [("client", query(7, "a.example")), ("server", answer(7, "a.example", "192.0.2.1"))]
    )
    [row] = log(frames)["records"]
    assert (row["qname"], row["qtype"], row["rcode"]) == ("a.example", "A", "NOERROR")
    assert row["answers"] == ["A 192.0.2.1"]
    assert row["latency_ms"] == 1.0
    assert (row["client"], row["server"], row["transport"]) == (
        "10.0.0.1:40000",
        "10.0.0.53:53",
        "udp",
    )


def test_a_repeated_query_is_one_record():
    asked = query(7, "a.example")
    frames = datagrams([("client", asked), ("client", asked), ("server", answer(7, "a.example"))])
    [row] = log(frames)["records"]
    assert row["sent"] == 2


def test_answers_out_of_order_meet_their_queries():
    frames = datagrams(
        [
            ("client", query(1, "a.example")),
            ("client", query(2, "b.example")),
            ("server", answer(2, "b.example", rcode=3)),
            ("server", answer(1, "a.example", "192.0.2.1")),
        ]
    )
    results = log(frames)
    rows = [(row["qname"], row["rcode"]) for row in results["records"]]
    assert rows == [("b.example", "NXDOMAIN"), ("a.example", "NOERROR")]
    assert results["by_code"] == {"NXDOMAIN": 1, "NOERROR": 1}


def test_a_query_that_nobody_answers_is_recorded_when_the_flow_ends():
    results = log(datagrams([("client", query(1, "a.example"))]))
    assert [row["rcode"] for row in results["records"]] == [None]
    assert results["by_code"] == {"no response": 1}


def test_an_answer_without_query_has_been_sent_zero_times():
    [row] = log(datagrams([("client", query(9, "z.example")), ("server", answer(1, "a.example"))]))[
        "records"
    ][:1]
    assert (row["qname"], row["sent"]) == ("a.example", 0)


def test_messages_over_tcp_are_logged_alike():
    def framed(message):
        return struct.pack(">H", len(message)) + message

    frames = conversation(
        [
            ("client", framed(query(7, "a.example"))),
            ("server", framed(answer(7, "a.example", "192.0.2.1"))),
        ],
        server=("10.0.0.53", 53),
        mss=5,
    )
    [row] = log(frames)["records"]
    assert (row["transport"], row["answers"]) == ("tcp", ["A 192.0.2.1"])


def test_waiting_queries_beyond_the_limit_are_counted():
    frames = datagrams([("client", query(i, "a.example")) for i in range(5)])
    assert log(frames, max_waiting=3)["not_remembered"] == 2
