# SPDX-License-Identifier: Apache-2.0
"""Compares the parser with tshark, frame by frame, over the captures of the shared corpus.

Compared is the innermost understood packet: addresses, protocol, ports and payload length. The
known differences, each with its reason, are in ``explained``; anything else fails the test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORPUS = Path(os.environ.get("NFMESH_CORPUS", ROOT.parent / "shared" / "corpus"))
SOURCES = ("wire/*.c", "io/fail.c", "io/input.c", "io/pcap_file.c", "io/pcapng.c")
FLAGS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-std=gnu11"]
OPTIONS = (
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
    "ip.check_checksum:FALSE",
    "udp.check_checksum:FALSE",
)
FIELDS = [
    "frame.protocols",
    *(f"ip.{x}" for x in ("src", "dst", "proto", "frag_offset", "flags.mf")),
    *(f"ipv6.{x}" for x in ("src", "dst", "nxt", "fraghdr.offset", "fraghdr.more")),
    *(f"tcp.{x}" for x in ("srcport", "dstport", "len")),
    *(f"udp.{x}" for x in ("srcport", "dstport", "length")),
    *(f"sctp.{x}" for x in ("srcport", "dstport")),
    *(f"icmp.{x}" for x in ("type", "code", "ident")),
    *(f"icmpv6.{x}" for x in ("type", "code", "echo.identifier")),
]
EXTENSIONS = (0, 43, 44, 51, 60)  # IPv6: what is behind them is not among the fields
NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}


@dataclass(frozen=True, slots=True)
class Seen:
    """What one dissector says of one frame."""

    status: str
    src: str = ""
    dst: str = ""
    proto: int = 0
    ports: tuple[int, int] = (0, 0)
    payload: int | None = None
    reason: str = ""


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the tool that prints what the parser says, built with sanitizers."""
    tool = tmp_path_factory.mktemp("wire") / "wire_dump"
    sources = [str(p) for pattern in SOURCES for p in sorted((ROOT / "native/src").glob(pattern))]
    include = [f"-I{ROOT / d}" for d in ("native/include", "native/src", "tests/native")]
    main = str(ROOT / "tests/native/wire_dump.c")
    subprocess.run(["cc", *FLAGS, *include, main, *sources, "-lz", "-o", str(tool)], check=True)
    return tool


def ours(tool: Path, capture: Path) -> Iterator[Seen]:
    """Yields what the parser says of each frame."""
    run = subprocess.run([str(tool), str(capture)], capture_output=True, text=True, check=True)
    for line in run.stdout.splitlines()[1:]:
        c = line.split("\t")
        yield Seen(c[1], c[4], c[5], int(c[6]), (int(c[7]), int(c[8])), int(c[9]), c[2])


def theirs(capture: Path) -> Iterator[Seen]:
    """Yields what tshark says of each frame."""
    command = ["tshark", "-r", str(capture), "-n", "-T", "fields", "-E", "occurrence=a"]
    command += [x for option in OPTIONS for x in ("-o", option)]
    command += [x for field in FIELDS for x in ("-e", field)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in run.stdout.split("\n")[:-1]:
        columns = [c.split(",") if c else [] for c in line.split("\t")]
        yield innermost(dict(zip(FIELDS, columns, strict=True)))


def number(text: str) -> int:
    """Reads a number as tshark prints it, in decimal, hexadecimal or as a truth value."""
    return int(text == "True") if text in ("True", "False") else int(text, 0)


def innermost(fields: dict[str, list[str]]) -> Seen:
    """Finds the innermost packet; what ICMP errors quote does not count."""
    taken: dict[str, int] = {}
    found = Seen("other")

    def take(name: str) -> str:
        values, i = fields[name], taken.get(name, 0)
        taken[name] = i + 1
        return values[i] if i < len(values) else ""

    for layer in fields["frame.protocols"][0].split(":"):
        if layer in ("ip", "ipv6"):
            found = ip_layer(layer, take)
        elif layer == "ipv6.fraghdr" and found.src:
            fragment = any([number(take(f"{layer}.{x}") or "0") for x in ("offset", "more")])
            found = replace(found, status="fragment" if fragment else "ok")
        elif layer in NUMBERS and found.src:
            found = transport(layer, take, found)
            if layer.startswith("icmp"):
                break
        if found.status == "fragment":
            break
    return found


def ip_layer(layer: str, take: Callable[[str], str]) -> Seen:
    """Reads an IP header's fields."""
    src, dst = take(f"{layer}.src"), take(f"{layer}.dst")
    if not src:
        return Seen("malformed")
    if layer == "ipv6":
        next_header = take("ipv6.nxt")
        return Seen("ok", src, dst, number(next_header or "0"))
    proto, offset, more = take("ip.proto"), take("ip.frag_offset"), take("ip.flags.mf")
    fragment = number(offset or "0") > 0 or number(more or "0") > 0
    return Seen("fragment" if fragment else "ok", src, dst, number(proto or "0"))


def transport(layer: str, take: Callable[[str], str], found: Seen) -> Seen:
    """Reads a transport header's fields."""
    proto = NUMBERS[layer]
    if layer.startswith("icmp"):
        kind, code = take(f"{layer}.type"), take(f"{layer}.code")
        if not kind or not code:
            return Seen("malformed", found.src, found.dst, proto)
        echo = number(kind) in ((0, 8) if layer == "icmp" else (128, 129))
        name = "icmp.ident" if layer == "icmp" else "icmpv6.echo.identifier"
        port = number(take(name) or "0") if echo else number(kind) << 8 | number(code)
        return Seen("ok", found.src, found.dst, proto, (port, port))
    sport, dport = take(f"{layer}.srcport"), take(f"{layer}.dstport")
    if not sport or not dport:
        return Seen("malformed", found.src, found.dst, proto)
    length: int | None = None
    if layer == "tcp":
        text = take("tcp.len")
        length = int(text) if text else None
    elif layer == "udp":
        text = take("udp.length")
        length = int(text) - 8 if text else None
    return Seen("ok", found.src, found.dst, proto, (int(sport), int(dport)), length)


def explained(a: Seen, b: Seen) -> str:
    """Returns why the parser (a) and tshark (b) differ where both are right, or an empty text."""
    if a.reason == "ipv4_length" and b.status == "ok":
        return "IP's length runs past the frame: receivers drop it, tshark shows what is there"
    if a.reason == "tcp_offset" and b.status == "ok":
        return "a data offset that cannot be: tshark shows the ports all the same"
    if a.reason == "link_short" and b.status == "other":
        return "not even a link header"
    return ""


def same(a: Seen, b: Seen) -> bool:
    """Compares what both said."""
    if a.status in ("other", "malformed"):
        return b.status == a.status
    payload = b.payload is None or a.payload == b.payload
    proto = a.proto == b.proto or b.proto in EXTENSIONS
    key = (a.status, a.src, a.dst, a.ports) == (b.status, b.src, b.dst, b.ports)
    return key and proto and payload


CAPTURES = sorted(p for p in CORPUS.glob("captures/*") if ".pcap" in p.name)


ODD = sorted(p for p in CORPUS.glob("robustness/**/*") if ".pcap" in p.name)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.skipif(not CAPTURES, reason=f"no captures at {CORPUS} (set NFMESH_CORPUS)")
@pytest.mark.parametrize("capture", CAPTURES, ids=lambda p: p.name)
def test_agrees_with_tshark(dump: Path, capture: Path) -> None:
    mismatches = [
        f"frame {i}: {a} tshark {b}"
        for i, (a, b) in enumerate(zip(ours(dump, capture), theirs(capture), strict=True), 1)
        if not same(a, b) and not explained(a, b)
    ]
    assert not mismatches, "\n".join([f"{len(mismatches)} frames differ", *mismatches[:20]])


@pytest.mark.skipif(not ODD, reason=f"no captures at {CORPUS} (set NFMESH_CORPUS)")
def test_survives_odd_captures(dump: Path) -> None:
    run = subprocess.run([str(dump), *map(str, ODD)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert sum(not line.startswith("#") for line in run.stdout.splitlines()) > len(ODD)
