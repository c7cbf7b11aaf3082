# SPDX-License-Identifier: Apache-2.0
r"""Tools for testing NFs: packets from bytes, conversations from messages, runs from frames.

from mesh.testing import conversation, replay_frames

frames = conversation([("client", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")])
report = replay_frames(frames, [MyNF])
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Literal

from mesh._ffi import check, check_pointer, native
from mesh.ports import LINKTYPE_ETHERNET, Frame, Port
from mesh.report import Report
from mesh.runner import AnyNF, replay

__all__ = [
    "ACK",
    "FIN",
    "PSH",
    "RST",
    "SYN",
    "Address",
    "Frame",
    "TcpSide",
    "checksum",
    "conversation",
    "datagrams",
    "ethernet",
    "ipv4",
    "ipv6",
    "packet",
    "replay_frames",
    "tcp",
    "timed",
    "udp",
    "write_capture",
]

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
START_NS = 1_700_000_000_000_000_000
"""Event time of the first frame unless told otherwise."""

Address = str | IPv4Address | IPv6Address
Sender = Literal["client", "server"]


def checksum(data: bytes, start: int = 0) -> int:
    """Returns the Internet checksum (RFC 1071).

    >>> hex(checksum(bytes.fromhex("4500003c1c4640004006 0000 ac100a63ac100a0c")))
    '0xb1e6'
    """
    if len(data) % 2:
        data += b"\0"
    total: int = start + sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ethernet(payload: bytes, ethertype: int, vlan: int | None = None) -> bytes:
    """Puts an Ethernet header before a packet, with one 802.1Q tag when `vlan` is given."""
    tag = b"" if vlan is None else struct.pack(">HH", 0x8100, vlan)
    return bytes.fromhex("020000000002020000000001") + tag + struct.pack(">H", ethertype) + payload


def ipv4(
    payload: bytes,
    src: Address,
    dst: Address,
    proto: int,
    *,
    ident: int = 0,
    fragment: int = 0,
    more: bool = False,
    ttl: int = 64,
) -> bytes:
    """Puts an IPv4 header before a payload.

    Args:
        payload: what follows the header.
        src: sender.
        dst: receiver.
        proto: IANA number.
        ident: identification of a datagram's fragments.
        fragment: offset of this fragment in bytes, a multiple of 8.
        more: further fragments follow.
        ttl: time to live.
    """
    offset = fragment // 8 | (0x2000 if more else 0)
    head = struct.pack(
        ">BBHHHBBH4s4s",
        *(0x45, 0, 20 + len(payload), ident, offset, ttl, proto, 0),
        ip_address(src).packed,
        ip_address(dst).packed,
    )
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ipv6(payload: bytes, src: Address, dst: Address, proto: int, *, hops: int = 64) -> bytes:
    """Puts an IPv6 header before a payload."""
    head = struct.pack(">IHBB", 6 << 28, len(payload), proto, hops)
    return head + ip_address(src).packed + ip_address(dst).packed + payload


def packet(payload: bytes, src: Address, dst: Address, proto: int) -> bytes:
    """Puts the IP and Ethernet headers that fit the addresses before a payload."""
    if ip_address(src).version == 4:
        return ethernet(ipv4(payload, src, dst, proto), 0x0800)
    return ethernet(ipv6(payload, src, dst, proto), 0x86DD)


def udp(payload: bytes, src: Address, sport: int, dst: Address, dport: int) -> bytes:
    """Returns a UDP datagram without IP header, checksum right."""
    head = struct.pack(">HHHH", sport, dport, 8 + len(payload), 0)
    total = _with_pseudo(head + payload, src, dst, 17) or 0xFFFF
    return head[:6] + struct.pack(">H", total) + payload


def tcp(
    payload: bytes,
    src: Address,
    sport: int,
    dst: Address,
    dport: int,
    *,
    seq: int = 0,
    ack: int = 0,
    flags: int = ACK,
    window: int = 65535,
    options: bytes = b"",
) -> bytes:
    """Returns a TCP segment without IP header, checksum right; options are padded to 4 bytes."""
    options += b"\0" * (-len(options) % 4)
    offset = (5 + len(options) // 4) << 12
    head = struct.pack(
        ">HHIIHHHH",
        *(sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset | flags, window, 0, 0),
    )
    segment = head + options + payload
    total = _with_pseudo(segment, src, dst, 6)
    return segment[:16] + struct.pack(">H", total) + segment[18:]


def _with_pseudo(segment: bytes, src: Address, dst: Address, proto: int) -> int:
    pseudo = (
        ip_address(src).packed + ip_address(dst).packed + struct.pack(">II", len(segment), proto)
    )
    return checksum(pseudo + segment)


def timed(
    frames: Iterable[bytes], start_ns: int = START_NS, step_ns: int = 1_000_000
) -> list[Frame]:
    """Gives frames their times, one step apart."""
    return [Frame(data, start_ns + i * step_ns) for i, data in enumerate(frames)]


class TcpSide:
    """One side of a TCP conversation: makes its segments and counts its sequence numbers."""

    def __init__(self, address: Address, port: int, isn: int) -> None:
        self.address, self.port, self.seq = address, port, isn
        self.peer: TcpSide | None = None

    def send(self, payload: bytes = b"", flags: int = ACK, *, seq: int | None = None) -> bytes:
        """Returns the next segment as a frame.

        Args:
            payload: bytes to carry.
            flags: without ACK the acknowledgement number is 0.
            seq: send from there instead, and count nothing (a retransmission, a gap).
        """
        peer = self.peer
        if peer is None:
            raise ValueError("connect the sides: a.peer, b.peer = b, a")
        number = self.seq if seq is None else seq
        if seq is None:
            self.seq += len(payload) + bool(flags & SYN) + bool(flags & FIN)
        ack = peer.seq if flags & ACK else 0
        segment = tcp(
            payload, self.address, self.port, peer.address, peer.port,
            seq=number, ack=ack, flags=flags,
        )  # fmt: skip
        return packet(segment, self.address, peer.address, 6)


def conversation(
    messages: Sequence[tuple[Sender, bytes]] = (),
    *,
    client: tuple[Address, int] = ("10.0.0.1", 40000),
    server: tuple[Address, int] = ("10.0.0.2", 80),
    mss: int = 1460,
    close: Literal["fin", "reset", "none"] = "fin",
    start_ns: int = START_NS,
    step_ns: int = 1_000_000,
    isn: tuple[int, int] = (1000, 5000),
) -> list[Frame]:
    """Makes a whole TCP conversation: handshake, messages with their ACKs, close.

    Args:
        messages: who says what, in order; long ones are cut into segments.
        client: address and port, IPv4 or IPv6.
        server: likewise.
        mss: payload bytes of a segment.
        close: FIN from both sides, client first; a RST from the client; or nothing.
        start_ns: time of the SYN.
        step_ns: between frames.
        isn: initial sequence numbers.
    """
    a, b = TcpSide(*client, isn[0]), TcpSide(*server, isn[1])
    a.peer, b.peer = b, a
    frames = [a.send(flags=SYN), b.send(flags=SYN | ACK), a.send()]
    for sender, message in messages:
        here, there = (a, b) if sender == "client" else (b, a)
        for at in range(0, len(message), mss):
            frames.append(here.send(message[at : at + mss], PSH | ACK))
            frames.append(there.send())
    if close == "fin":
        frames += [a.send(flags=FIN | ACK), b.send(flags=FIN | ACK), a.send()]
    elif close == "reset":
        frames.append(a.send(flags=RST | ACK))
    return timed(frames, start_ns, step_ns)


def datagrams(
    messages: Sequence[tuple[Sender, bytes]],
    *,
    client: tuple[Address, int] = ("10.0.0.1", 40000),
    server: tuple[Address, int] = ("10.0.0.53", 53),
    start_ns: int = START_NS,
    step_ns: int = 1_000_000,
) -> list[Frame]:
    """Makes a UDP exchange, a datagram per message."""
    frames: list[bytes] = []
    for sender, message in messages:
        here, there = (client, server) if sender == "client" else (server, client)
        frames.append(packet(udp(message, *here, *there), here[0], there[0], 17))
    return timed(frames, start_ns, step_ns)


def write_capture(
    path: str | Path,
    frames: Iterable[Frame],
    *,
    form: Literal["pcap", "pcap-ns", "pcapng"] = "pcapng",
    link_type: int = LINKTYPE_ETHERNET,
) -> None:
    """Writes frames to a capture file; pcap has microseconds, the others nanoseconds.

    Raises:
        NativeError: the file cannot be written.
    """
    ffi, lib = native()
    error = ffi.new("nfm_error *")
    number = ("pcap", "pcap-ns", "pcapng").index(form)
    opened = lib.nfm_pcap_writer_open(str(path).encode(), number, link_type, 262144, error)
    writer = check_pointer(opened, "", error)
    try:
        for frame in frames:
            size = len(frame.data)
            rc = lib.nfm_pcap_writer_write(
                writer, frame.data, size, frame.wire_len or size, frame.ts_ns
            )
            check(rc, str(path))
    finally:
        rc = lib.nfm_pcap_writer_close(writer, error)
    check(rc, "", error)


def replay_frames(
    frames: Iterable[Frame],
    nfs: Sequence[AnyNF],
    *,
    link_type: int = LINKTYPE_ETHERNET,
    worker: Mapping[str, int] | None = None,
    **options: Any,
) -> Report:
    """Runs NFs over frames in memory; `options` are those of `mesh.replay`.

    The worker is small unless `worker` says otherwise, so that a test starts in milliseconds.
    """
    sizes = {"n_small": 4096, "n_records": 32768, "max_flows": 4096, "fields_size": 4 << 20}
    port = Port.memory(frames, link_type)
    return replay(port, nfs, worker=sizes | dict(worker or {}), **options)
