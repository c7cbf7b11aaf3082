# SPDX-License-Identifier: Apache-2.0
"""Random rules over the project's captures: what `ids` finds is what Suricata finds.

Suricata looks at a stream in chunks: places (offset, distance, ...) count in there, and what lies
across the end of one it may miss. So alerts must be the same on streams of one segment a side; on
captures as they are ours may be more, of contents that Suricata's chunks cut.
Suricata is looked for on PATH, or named by NFMESH_SURICATA; Debian 12 has it in backports.
"""

import json
import os
import random
import shutil
import subprocess
from collections import defaultdict
from ipaddress import ip_address
from pathlib import Path

import pytest
from patience import PATIENCE_S

from mesh import NF, on, replay
from mesh.errors import NFMissing
from mesh.native_nf import library_path
from mesh.testing import conversation, write_capture
from nfs.ids.nf import Ids

SURICATA = os.environ.get("NFMESH_SURICATA") or shutil.which("suricata")
if SURICATA is None:
    pytest.skip("suricata is not installed", allow_module_level=True)
try:
    library_path(Ids, Ids.native)
except NFMissing:
    pytest.skip("ids.so was not built: libhs is missing", allow_module_level=True)

CAPTURES = Path(__file__).parent / "captures"
ROOT = Path(__file__).parent.parent
CORPUS = Path(os.environ.get("NFMESH_CORPUS", ROOT.parent / "shared" / "corpus")) / "captures"
OTHERS = [
    "office",
    "ndpi-WebattackSQLinj",
    "ndpi-dns_fragmented",
    "zeek-ftp-ipv4",
    "kernel-reorder-s1",
]
CONFIG = """%YAML 1.1
---
vars:
  address-groups: {HOME_NET: "[10.0.0.0/8,192.168.0.0/16]", EXTERNAL_NET: "!$HOME_NET"}
  port-groups: {HTTP_PORTS: "80"}
packet-alert-max: 255
outputs:
  - eve-log: {enabled: yes, filetype: regular, filename: eve.json, types: [alert]}
app-layer:
  protocols:
    http: {enabled: yes}
    dns: {tcp: {enabled: yes}, udp: {enabled: yes}}
stream: {memcap: 256mb, midstream: true, checksum-validation: no, reassembly: {depth: 0}}
"""


class Taste(NF):
    """Collects what rules can be made of: bytes of streams and datagrams, and events."""

    def __init__(self):
        self.streams, self.fields = defaultdict(bytes), []

    @on("tcp.data")
    def data(self, batch):
        for event in batch:
            self.streams[event.flow, event.side] += bytes(event.data)

    @on("http.request")
    def request(self, batch):
        for e in batch:
            self.fields += [("http", "http.method", e.method), ("http", "http.uri.raw", e.target)]
            self.fields += [
                ("http", "http.user_agent", e.user_agent),
                ("http", "http.host", e.host),
            ]

    @on("http.response")
    def response(self, batch):
        self.fields += [("http", "http.stat_code", str(e.status)) for e in batch]

    @on("dns.query")
    def query(self, batch):
        self.fields += [("dns", "dns.query", e.qname) for e in batch]


def content(data):
    return '"|' + data.hex(" ") + '|"'


class Writer:
    """Writes random rules about what is there."""

    def __init__(self, seed, taste):
        self.random = random.Random(seed)
        self.streams = [s for s in taste.streams.values() if len(s) >= 40]
        self.fields = [f for f in taste.fields if len(f[2]) >= 2]

    def rules(self, n, *, placed):
        kinds = [self.plain] if self.streams else []
        if placed:
            kinds += [self.chain, self.placed, self.absent, self.not_after, self.pcre]
            kinds += [self.data_at]
        if self.fields:
            kinds += [self.field, self.field_absent, self.field_size]
        for sid in range(1, n + 1):
            yield self.random.choice(kinds)() % f'msg:"r{sid}"; sid:{sid};'

    def piece(self, stream, most=12):
        begin = self.random.randrange(len(stream) - 1)
        return begin, stream[begin : begin + self.random.randint(2, most)]

    def stream_rule(self, *options):
        flow = self.random.choice(["", "flow:to_server;", "flow:to_client;", "flow:established;"])
        body = " ".join(options)
        return f"alert tcp-stream any any -> any any (%s {flow} {body})"

    def plain(self):
        _, data = self.piece(self.random.choice(self.streams))
        if self.random.random() < 0.5:
            return self.stream_rule(f"content:{content(data.swapcase())}; nocase;")
        return self.stream_rule(f"content:{content(data)};")

    def chain(self):
        stream = self.random.choice(self.streams)
        at, first = self.piece(stream[:-20])
        end = at + len(first)
        gap = self.random.randrange(min(300, len(stream) - end - 2))
        second = stream[end + gap : end + gap + 6]
        distance = max(0, gap + self.random.randint(-3, 1))
        within = len(second) + self.random.randrange(3)
        places = self.random.choice(
            [f"distance:{distance};", f"distance:{distance}; within:{within};"]
        )
        return self.stream_rule(f"content:{content(first)}; content:{content(second)}; {places}")

    def placed(self):
        stream = self.random.choice(self.streams)
        at, data = self.piece(stream[:300])
        offset = max(0, at + self.random.randint(-3, 1))
        depth = len(data) + self.random.randrange(5)
        places = self.random.choice([f"offset:{offset};", f"offset:{offset}; depth:{depth};"])
        return self.stream_rule(f"content:{content(data)}; {places}")

    def absent(self):
        _, there = self.piece(self.random.choice(self.streams))
        at, gone = self.piece(self.random.choice(self.streams)[:60])
        depth = max(len(gone), at + len(gone) + self.random.randint(-2, 2))
        return self.stream_rule(
            f"content:{content(there)}; content:!{content(gone)}; depth:{depth};"
        )

    def not_after(self):
        stream = self.random.choice(self.streams)
        at, first = self.piece(stream[:-20], 6)
        gone = stream[at + len(first) + 3 : at + len(first) + 5]
        within = len(gone) + self.random.randrange(8)
        return self.stream_rule(
            f"content:{content(first)}; content:!{content(gone)}; within:{within};"
        )

    def pcre(self):
        _, data = self.piece(self.random.choice(self.streams), 6)
        text = "".join(self.random.choice([f"\\x{b:02x}", f"[\\x00-\\x{b:02x}]"]) for b in data)
        return self.stream_rule(f'pcre:"/{text}/s";')

    def field(self):
        proto, buffer, text = self.random.choice(self.fields)
        begin = self.random.randrange(len(text) - 1)
        part = text[begin : begin + self.random.randint(1, 9)].encode()
        if buffer == "http.host":
            part = part.lower()
        place = self.random.choice(["", "startswith;", "endswith;", f"offset:{begin};"])
        return f"alert {proto} any any -> any any (%s {buffer}; content:{content(part)}; {place})"

    def field_absent(self):
        proto, buffer, text = self.random.choice(self.fields)
        gone = content(text[:3].encode())
        return f"alert {proto} any any -> any any (%s {buffer}; content:!{gone};)"

    def field_size(self):
        proto, buffer, text = self.random.choice(self.fields)
        size = max(1, len(text) + self.random.randint(-2, 2))
        how = self.random.choice(["", "<", ">", "!"])
        size += how == "<"
        return f"alert {proto} any any -> any any (%s {buffer}; bsize:{how}{size};)"

    def data_at(self):
        _, data = self.piece(self.random.choice(self.streams)[-60:])
        place = self.random.randrange(60)
        how = self.random.choice(["", "!"])
        return self.stream_rule(f"content:{content(data)}; isdataat:{how}{place or 1},relative;")


def suricata(capture, rules, folder):
    (folder / "suricata.yaml").write_text(CONFIG)
    command = [SURICATA, "-c", str(folder / "suricata.yaml"), "-S", str(rules)]
    command += ["-r", str(capture), "-l", str(folder), "-k", "none", "--runmode", "single"]
    command += [
        "--set",
        "classification-file=/dev/null",
        "--set",
        "reference-config-file=/dev/null",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return rows_of(folder / "eve.json")


def rows_of(path):
    return {found(json.loads(line)) for line in path.read_text().splitlines()}


def found(row):
    ends = [(ip_address(row[f"{e}_ip"]), row.get(f"{e}_port", 0)) for e in ("src", "dest")]
    return row["alert"]["signature_id"], row["proto"], *ends


def one_segment_a_side(taste, path):
    frames = []
    flows = list(dict.fromkeys(flow for flow, _ in taste.streams))
    for port, flow in enumerate(flows, 40001):
        said = [taste.streams[flow, side][:1400] for side in (0, 1)]
        messages = [
            (who, data) for who, data in zip(("client", "server"), said, strict=True) if data
        ]
        frames += conversation(messages, client=("10.0.0.1", port))
    write_capture(path, frames, form="pcap")
    return path


def compared(capture, folder, seed, n, *, placed):
    taste = Taste()
    replay(capture, [taste])
    if placed:
        capture = one_segment_a_side(taste, folder / "made.pcap")
        taste = Taste()
        replay(capture, [taste])
    writer = Writer(seed, taste)
    lines = list(writer.rules(n, placed=placed))
    rules = folder / "a.rules"
    rules.write_text("\n".join(lines) + "\n")
    nf = Ids(rules=str(rules), path="ours.json")
    report = replay(capture, [nf], out=folder)
    assert not report.errors
    assert not nf.left_out
    return lines, rows_of(folder / "ours.json"), suricata(capture, rules, folder)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("capture", ["office", "impaired"])
def test_alerts_are_suricatas(tmp_path, capture, seed):
    path = CAPTURES / f"{capture}.pcap"
    lines, ours, theirs = compared(path, tmp_path, seed, 100, placed=True)
    assert named(lines, ours ^ theirs) == []
    assert len(theirs) > 60


@pytest.mark.parametrize("name", OTHERS)
def test_alerts_on_captures_as_they_are(tmp_path, name):
    capture = CORPUS / f"{name}.pcap" if name != "office" else CAPTURES / "office.pcap"
    if not capture.exists():
        pytest.skip("the corpus is not here: NFMESH_CORPUS names it")
    lines, ours, theirs = compared(capture, tmp_path, 7, 100, placed=False)
    assert named(lines, theirs - ours) == []
    assert [line for line in named(lines, ours - theirs) if "tcp-stream" not in line] == []
    assert len(ours - theirs) < 0.05 * len(theirs)


def named(lines, rows):
    return sorted({lines[sid - 1] for sid, *_ in rows})
