# SPDX-License-Identifier: Apache-2.0
"""Captures through whole meshes, for tests: traffic, runs, and what is in a file."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from live_mesh import LiveMesh

from mesh.testing import Frame, conversation, ethernet, ipv4, packet, timed, udp

PASS = """
from mesh import NF, on

class Pass{n}(NF):
    \"\"\"Lets all pass.\"\"\"
    name = "pass{n}"

    def __init__(self):
        self.seen = 0

    @on("packet", mode="inline", stage={stage})
    def judge(self, batch):
        self.seen += len(batch)

    def results(self):
        return {{"seen": self.seen}}
"""


def write_nf(folder: Path, name: str, text: str) -> str:
    """Writes an NF; returns how a command line names it."""
    path = folder / f"{name}.py"
    path.write_text(text)
    path.chmod(0o644)
    return str(path)


def datagram(source: str, port: int, payload: bytes) -> bytes:
    """Returns a frame with a UDP datagram."""
    src, dst = IPv4Address(source), IPv4Address("10.2.0.1")
    return packet(udp(payload, src, 5000, dst, port), src, dst, 17)


def traffic(n: int) -> list[Frame]:
    """Returns conversations over TCP and UDP, mixed."""
    flows = []
    for i in range(n):
        request = f"GET /{i} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        talk = conversation([("client", request), ("server", answer)], client=(f"10.0.0.{i}", 4000))
        flows.append([frame.data for frame in talk])
        words = [f"{i}.{k}".encode() for k in range(8)]
        port = 53 if i % 2 else 54
        flows.append([datagram(f"10.1.0.{i}", port, word) for word in words])
    mixed = itertools.zip_longest(*flows)
    return timed([data for row in mixed for data in row if data is not None])


def pieces(ident: int, payload: bytes, source: str, port: int) -> list[bytes]:
    """Returns a datagram in fragments of 512 bytes."""
    whole, to = udp(payload, source, port, "10.9.0.9", 53), "10.9.0.9"
    return [
        ethernet(
            ipv4(
                whole[at : at + 512],
                *(source, to, 17),
                ident=ident,
                fragment=at,
                more=at + 512 < len(whole),
            ),
            0x0800,
        )
        for at in range(0, len(whole), 512)
    ]


def with_fragments(n: int) -> list[Frame]:
    """Returns flows with fragmented and whole datagrams, and frames without a flow, mixed."""
    frames = [frame.data for frame in traffic(n)]
    for i in range(n):
        for piece in pieces(i, bytes([i]) * 1300, f"10.8.0.{i}", 5000 + i):
            frames.insert((i * 37) % len(frames), piece)
        arp = ethernet(bytes.fromhex("0001080006040001") + bytes([i] * 20), 0x0806)
        frames.insert((i * 53) % len(frames), arp)
    return timed(frames)


def run(*arguments: str) -> dict[str, Any]:
    """Runs a mesh to its end; returns its report."""
    mesh = LiveMesh(None, *arguments)
    try:
        return mesh.wait()
    finally:
        mesh.close()


def flow_of(frame: bytes) -> tuple[Any, ...]:
    """Returns what both directions of a flow have in common; all of these are IPv4."""
    ends = sorted([(frame[26:30], frame[34:36]), (frame[30:34], frame[36:38])])
    return (frame[23], *ends)


def by_flow(frames: list[tuple[int, bytes]]) -> dict[tuple[Any, ...], list[tuple[int, bytes]]]:
    """Returns the frames of each flow, in order."""
    found: dict[tuple[Any, ...], list[tuple[int, bytes]]] = {}
    for frame in frames:
        found.setdefault(flow_of(frame[1]), []).append(frame)
    return found
