# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from mesh import NF, on
from mesh.errors import NFError, NFMissing, SpecError
from mesh.native_nf import library_path
from mesh.testing import ACK, PSH, SYN, TcpSide, conversation, replay_frames, timed
from nfs.payload_scan.nf import PayloadScan
from nfs.payload_scan.patterns import FLAGS, load, parse

try:
    library_path(PayloadScan, PayloadScan.native)
except NFMissing:
    pytest.skip("payload_scan.so was not built: libhs is missing", allow_module_level=True)


class Hears(NF):
    """Collects the matches that payload_scan publishes."""

    def __init__(self):
        self.found = []

    @on("payload_scan.match")
    def matched(self, batch):
        self.found += [(e.pattern, e.stream_offset, e.src_ip, e.src_port) for e in batch]


def scan(frames, tmp_path, patterns, **options):
    file = tmp_path / "patterns.txt"
    file.write_text(patterns)
    hears = Hears()
    report = replay_frames(frames, [PayloadScan(patterns=str(file), **options), hears])
    assert not report.errors
    return hears.found, report["payload_scan"].results


@pytest.mark.parametrize("mss", [1, 2, 5, 6, 7, 1460])
def test_a_word_is_found_once_however_the_stream_is_cut(tmp_path, mss):
    frames = conversation([("client", b"a needle, another NEEDLE"), ("server", b"none")], mss=mss)
    found, results = scan(frames, tmp_path, "needle: /needle/i")
    assert found == [("needle", 8, "10.0.0.1", 40000), ("needle", 24, "10.0.0.1", 40000)]
    assert results["matches"] == 2
    assert results["bytes"] == 28


def test_both_sides_have_streams_of_their_own(tmp_path):
    frames = conversation([("client", b"nee"), ("server", b"dle needle")], mss=3)
    found, _ = scan(frames, tmp_path, "needle: /needle/")
    assert found == [("needle", 10, "10.0.0.2", 80)]


def test_retransmitted_bytes_are_not_searched_twice(tmp_path):
    a, b = TcpSide("10.0.0.1", 1, 100), TcpSide("10.0.0.2", 2, 900)
    a.peer, b.peer = b, a
    frames = [a.send(flags=SYN), b.send(flags=SYN | ACK), a.send(), a.send(b"needle", PSH | ACK)]
    frames += [a.send(b"needle", PSH | ACK, seq=101), b.send()]
    found, _ = scan(timed(frames), tmp_path, "needle: /needle/")
    assert len(found) == 1


def test_a_pattern_at_the_end_is_decided_when_the_flow_ends(tmp_path):
    frames = conversation([("client", b"the end"), ("client", b" is the end")])
    found, _ = scan(frames, tmp_path, "end: /end$/")
    assert [(name, offset) for name, offset, *_ in found] == [("end", 18)]


def test_the_stream_limit_evicts_and_counts(tmp_path):
    flows = [
        conversation([("client", b"ne")], client=("10.0.0.1", p), close="none") for p in range(1, 4)
    ]
    frames = [frame for flow in flows for frame in flow]
    _, results = scan(frames, tmp_path, "needle: /needle/", memory_mb=0)
    assert results["max_streams"] == 1
    assert results["streams_evicted"] == 2


def test_matches_beyond_the_limit_are_counted(tmp_path):
    frames = conversation([("client", b"aaaaaaaa")])
    found, results = scan(frames, tmp_path, "a: /a/", max_matches=3)
    assert len(found) == 3
    assert results["matches_dropped"] == 5


def test_the_shipped_patterns_compile_and_find_a_split_attack():
    capture = Path(__file__).parent / "captures" / "office.pcap"
    from mesh import replay

    results = replay(capture, [PayloadScan])["payload_scan"].results
    assert {row["pattern"] for row in results["patterns"]} == {
        "etc_passwd",
        "path_traversal",
        "windows_shell",
    }


def test_an_expression_that_does_not_compile_is_named_with_its_line(tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("# words\nfine: /x/\nbroken: /(x/\n")
    with pytest.raises(NFError) as caught:
        replay_frames([], [PayloadScan(patterns=str(file))])
    assert isinstance(caught.value.cause, SpecError)
    assert caught.value.cause.path == f"{file}:3"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("no expression", "p:1", "name: /expression/flags"),
        ("\n\na: /x/q", "p:3", "unknown flag 'q'"),
        ("a: /x/\na: /y/", "p:2", "there already, at p:1"),
        ("# nothing", "p", "no pattern"),
    ],
)
def test_mistakes_in_a_pattern_file_name_the_line(text, place, words):
    with pytest.raises(SpecError, match=words) as caught:
        parse(text, "p")
    assert caught.value.path == place


def test_slashes_and_flags_of_an_expression_are_kept():
    [pattern] = parse(r"p: /\/etc\/passwd/is1", "p")
    assert pattern.expression == r"\/etc\/passwd"
    assert pattern.flags == FLAGS["i"] | FLAGS["s"] | FLAGS["1"]


def test_a_missing_pattern_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(SpecError, match=r"none\.txt"):
        load(tmp_path / "none.txt")
