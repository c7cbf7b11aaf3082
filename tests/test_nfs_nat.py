# SPDX-License-Identifier: Apache-2.0
"""The translator as an NF: options, a run, results."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pcap_file import frames_of

import mesh
from mesh import Report
from mesh.compose import NFUse
from mesh.errors import NFMissing, SpecError
from mesh.native_nf import library_path
from mesh.ports import Frame, Port
from mesh.testing import checksum, conversation, datagrams, timed, write_capture
from nfs.nat.nf import Nat
from nfs.nat.rules import forwards, npts, words

try:
    library_path(Nat, Nat.native)
except NFMissing:
    pytest.skip("nat.so was not built", allow_module_level=True)


def through(tmp_path: Path, frames: list[Frame], **options: object) -> tuple[Report, list[bytes]]:
    """Sends frames through the translator; returns the report and what came out."""
    source, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    write_capture(source, frames)
    report = mesh.replay(source, nfs=[NFUse(Nat, options=options)], sink=Port.record(out, "pcap"))
    return report, frames_of(out)


ELSEWHERE = ("203.0.113.70", 1, "203.0.113.71", 2)


def apart(frames: list[Frame]) -> list[Frame]:
    """Puts a burst of other traffic between frames: no reply comes before its question left."""
    filler = datagrams([("client", b"-")] * 32, client=ELSEWHERE[:2], server=ELSEWHERE[2:])
    return timed([data for frame in frames for data in (frame.data, *(f.data for f in filler))])


def addresses(frame: bytes) -> tuple[str, int, str, int]:
    """Source, its port, destination, its port; checks both checksums."""
    ip, l4 = frame[14:34], frame[34 : 14 + int.from_bytes(frame[16:18], "big")]
    assert checksum(ip) == 0
    assert checksum(ip[12:20] + struct.pack("!HH", ip[9], len(l4)) + l4) == 0
    src_port, dst_port = struct.unpack("!HH", l4[:4])
    return str(ip_address(ip[12:16])), src_port, str(ip_address(ip[16:20])), dst_port


def test_a_conversation_leaves_from_the_external_address(tmp_path: Path) -> None:
    said = [("client", b"x" * 4000), ("server", b"y" * 100)]
    frames = conversation(said, client=("10.1.2.3", 40000), server=("203.0.113.9", 80))
    sent = [f.data for f in frames if f.data[26] == 10]
    report, out = through(
        tmp_path, [f for f in frames if f.data[26] == 10], external="198.51.100.7"
    )
    assert [addresses(frame) for frame in out] == [
        ("198.51.100.7", 40000, "203.0.113.9", 80)
    ] * len(sent)
    assert [frame[54:] for frame in out] == [frame[54:] for frame in sent]
    results = report["nat"].results
    assert results["outbound"] == results["mappings_made"] == 1
    assert report.counters["inline.rewritten"] == len(out)


def test_replies_go_home_and_strangers_do_not(tmp_path: Path) -> None:
    out = conversation(
        [("client", b"hello")], client=("10.1.2.3", 40000), server=("203.0.113.9", 80)
    )
    back = conversation(
        [("client", b"hello")], client=("198.51.100.7", 40000), server=("203.0.113.9", 80)
    )
    strange = datagrams(
        [("client", b"?")], client=("203.0.113.66", 9), server=("198.51.100.7", 40000)
    )
    frames = [a if a.data[26] == 10 else b for a, b in zip(out, back, strict=True)]
    report, found = through(tmp_path, apart([*frames, *strange]), external=["198.51.100.7"])
    assert not report.nfs[0].errors
    ends = {addresses(frame) for frame in found}
    ends.discard(ELSEWHERE)
    assert ends == {
        ("198.51.100.7", 40000, "203.0.113.9", 80),
        ("203.0.113.9", 80, "10.1.2.3", 40000),
    }
    assert report["nat"].results["no_mapping"] == 1
    assert report.statistics.flows_opened == 3


def test_results_show_forwards(tmp_path: Path) -> None:
    said = [("client", b"GET")]
    frames = conversation(said, client=("203.0.113.9", 5000), server=("198.51.100.7", 443))
    options = {"external": "198.51.100.7", "forwards": ["tcp 198.51.100.7:443 -> 10.0.0.5:8443"]}
    report, found = through(tmp_path, [f for f in frames if f.data[26] == 203], **options)
    assert {addresses(frame)[2:] for frame in found} == {("10.0.0.5", 8443)}
    (row,) = report["nat"].results["table"]
    assert (row["internal"], row["external"], row["static"]) == (
        "10.0.0.5:8443",
        "198.51.100.7:443",
        True,
    )


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"external": "198.51.100"}, r"external\[0\]"),
        ({"external": "10.0.0.0/8"}, "at most 64"),
        ({"external": "192.0.2.1 192.0.2.1"}, "twice"),
        ({"inside": ["10.0.0.1/8"]}, r"inside\[0\]"),
        ({"ports": "5"}, "ports"),
        ({"ports": "9-5"}, "ports"),
        ({"forwards": ["tcp 192.0.2.1:1 -> 10.0.0.1:1"]}, "external addresses"),
        ({"external": "192.0.2.1", "forwards": ["tcp 192.0.2.1:0 -> 10.0.0.1:1"]}, "1 to 65535"),
        ({"forwards": ["sctp 1 -> 2"]}, r"forwards\[0\]"),
        ({"npt": ["fd00::/48 <-> 2001:db8::/56"]}, "same length"),
        ({"npt": ["fd00::/72 <-> 2001:db8::/72"]}, "1 to 64"),
        ({"npt": ["fd00::/48"]}, r"npt\[0\]"),
    ],
)
def test_mistakes_are_named_with_their_place(options: dict[str, object], place: str) -> None:
    with pytest.raises(SpecError, match=place):
        Nat(**options)  # type: ignore[arg-type]


@given(st.text(max_size=60))
def test_no_text_is_more_than_a_mistake(text: str) -> None:
    for read in (forwards, npts):
        try:
            read([text])
        except SpecError:
            continue
    assert isinstance(words(text), list)
