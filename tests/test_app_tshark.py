# SPDX-License-Identifier: Apache-2.0
"""Compares http and dns events with tshark over the captures of the shared corpus, end to end.

Compared are multisets over each capture, as the two may tell a message at different frames when
segments come out of order: of requests (method, target), of responses (status), of DNS messages
(id, response or not, name, type, code, answers announced, addresses). The known differences, each
with its reason, are in ``DIFFERENT``; anything else fails the test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import mesh

ROOT = Path(__file__).resolve().parent.parent
CORPUS = Path(os.environ.get("NFMESH_CORPUS", ROOT.parent / "shared" / "corpus"))
CAPTURES = sorted((CORPUS / "captures").glob("*"))
PREFERENCES = (
    "ip.check_checksum:FALSE",
    "tcp.check_checksum:FALSE",
    "udp.check_checksum:FALSE",
)
BETWEEN = "\x1f"

DIFFERENT: dict[str, str] = {
    "arkime-wireshark-retrans.pcap": "tshark tells the heads of two retransmitted segments again",
    "pcpp-unidirectional_tcp_stream_with_missing_packet.pcap": (
        "a body has a hole; tshark takes the next request for the rest of it"
    ),
    "suriver-tcp-urgp-01-oob.pcap": "the urgent byte stays in the stream here, tshark removes it",
    "suriver-tcp-urgp-04-2byte-XY.pcap": "as above",
    "zeek-http-methods.pcap": (
        "broken on purpose: request lines without version, which only GET may lack (HTTP/0.9), and"
        " flows that begin with bytes that no request has, which are left before the answer"
    ),
}

pytestmark = [
    pytest.mark.skipif(not CAPTURES, reason="no shared corpus"),
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]


class Heard(mesh.NF):
    """Collects what the two modules say."""

    def __init__(self) -> None:
        self.requests: Counter[Any] = Counter()
        self.responses: Counter[Any] = Counter()
        self.messages: Counter[Any] = Counter()

    @mesh.on("http.request")
    def request(self, batch: mesh.EventBatch) -> None:
        self.requests.update((e.method, e.target) for e in batch)

    @mesh.on("http.response")
    def response(self, batch: mesh.EventBatch) -> None:
        self.responses.update(e.status for e in batch)

    @mesh.on("dns.query")
    def query(self, batch: mesh.EventBatch) -> None:
        self.messages.update((e.id, False, e.qname, e.qtype, 0, ()) for e in batch)

    @mesh.on("dns.response")
    def answer(self, batch: mesh.EventBatch) -> None:
        for e in batch:
            addresses = re.findall(r"(?:^|;)A{1,4} ([0-9a-f.:]+)", e.answers)
            row = (e.id, True, e.qname, e.qtype, e.rcode, tuple(sorted(addresses)))
            self.messages[row] += 1


HTTP_FIELDS = ("http.request.method", "http.request.uri", "http.response.code")
DNS_FIELDS = [
    "dns.id",
    "dns.flags.response",
    "dns.qry.name",
    "dns.qry.type",
    "dns.flags.rcode",
    "dns.count.queries",
    "dns.count.answers",
    "dns.resp.type",
    "dns.a",
    "dns.aaaa",
]
PORTS = " || ".join(f"{p}.port in {{53, 5353, 5355}}" for p in ("udp", "tcp"))
ONLY = f"!icmp && !icmpv6 && ((http && tcp) || ((dns || mdns || llmnr) && ({PORTS})))"


@dataclass
class Seen:
    """What one dissector says of a capture."""

    requests: Counter[Any] = field(default_factory=Counter)
    responses: Counter[Any] = field(default_factory=Counter)
    messages: Counter[Any] = field(default_factory=Counter)


def tshark(capture: Path, bodies: bool) -> Seen:
    """Returns what tshark says.

    With |bodies| it tells a message when its body is whole, so it keeps silent about cut ones.
    Without, it tells each head that begins in a segment of its own.
    """
    command = ["tshark", "-r", str(capture), "-n", "-T", "fields", "-Y", ONLY]
    command += ["-E", "occurrence=a", "-E", f"aggregator={BETWEEN}"]
    names = ("http.desegment_body", "tcp.reassemble_out_of_order")
    preferences = (*PREFERENCES, *(f"{name}:{str(bodies).upper()}" for name in names))
    command += [x for p in preferences for x in ("-o", p)]
    command += [x for f in (*HTTP_FIELDS, *DNS_FIELDS) for x in ("-e", f)]
    run = subprocess.run(command, capture_output=True, check=False)
    seen = Seen()
    for line in run.stdout.decode("latin-1").split("\n")[:-1]:
        columns = [column.split(BETWEEN) if column else [] for column in line.split("\t")]
        methods, targets, codes = columns[:3]
        seen.requests.update(zip(methods, targets, strict=False))
        seen.responses.update(int(code) for code in codes)
        seen.messages.update(dns_messages(*columns[3:]))
    return seen


def dns_messages(
    ids: list[str],
    flags: list[str],
    names: list[str],
    types: list[str],
    codes: list[str],
    questions: list[str],
    counts: list[str],
    record_types: list[str],
    *addresses: list[str],
) -> Iterator[tuple[Any, ...]]:
    """Yields the DNS messages of a packet, to which the packet's lists are dealt out in order."""
    for ident, flag, n, answers in zip(ids, flags, questions, counts, strict=True):
        response = flag in ("1", "True")
        code = int(codes.pop(0)) if response else 0
        name, kind = (names[0], int(types[0])) if int(n) else ("", 0)
        del names[: int(n)], types[: int(n)]
        found = []
        for number, values in zip(("1", "28"), addresses, strict=True):
            found += values[: record_types[: int(answers)].count(number)]
        known = tuple(sorted(found)) if response else ()
        name = "." if name == "<Root>" else name
        yield int(ident, 16), response, name, kind, code, known


def ours(capture: Path) -> Heard:
    """Returns what our modules say of a capture."""
    nf = Heard()
    mesh.replay(capture, nfs=[nf])
    return nf


@pytest.fixture(scope="module")
def words() -> dict[str, tuple[Heard, Seen, Seen]]:
    """Returns our word and tshark's two on each capture."""
    found = {}
    for capture in CAPTURES:
        us, whole = ours(capture), tshark(capture, True)
        http = us.requests or us.responses or whole.requests or whole.responses
        found[capture.name] = (us, whole, tshark(capture, False) if http else Seen())
    return found


def check(differing: dict[str, list[Counter[Any]]]) -> None:
    """Fails when a capture differs that is not listed."""
    unknown = {n: parts for n, parts in differing.items() if any(parts) and n not in DIFFERENT}
    lines = [f"{n}: {[dict(p) for p in parts]}"[:1500] for n, parts in unknown.items()]
    assert not lines, "\n".join(lines)


def test_http_agrees_with_tshark(words: dict[str, tuple[Heard, Seen, Seen]]) -> None:
    """Each message that tshark tells either way is there, and none that it tells neither way."""
    total, differing = 0, {}
    for name, (us, whole, heads) in words.items():
        requests, responses = whole.requests | heads.requests, whole.responses | heads.responses
        total += requests.total() + responses.total()
        differing[name] = [
            us.requests - requests,
            requests - us.requests,
            us.responses - responses,
            responses - us.responses,
        ]
    print(f"{total} requests and responses compared")
    assert total > 500
    check(differing)
    assert all(any(differing[name]) for name in DIFFERENT), "listed differences that are none"


def test_dns_agrees_with_tshark(words: dict[str, tuple[Heard, Seen, Seen]]) -> None:
    total = sum(them.messages.total() for _, them, _ in words.values())
    print(f"{total} messages compared")
    assert total > 400
    check(
        {
            name: [us.messages - them.messages, them.messages - us.messages]
            for name, (us, them, _) in words.items()
        }
    )
