# SPDX-License-Identifier: Apache-2.0
"""Connection records: compact rows of numpy, and the dictionaries that people read.

A row has 218 bytes, so a million connections take about 210 MiB until they are written.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mesh import EventBatch
from mesh.columns import address_text, endpoint, enumeration

TCP = socket.IPPROTO_TCP
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
"""Names of protocols; others are written as their IANA number."""
EMPTY = hashlib.sha256().digest()

_SIDE = [
    ("packets", "u8"),
    ("payload_bytes", "u8"),
    ("stream_bytes", "u8"),
    ("gap_bytes", "u8"),
    ("retransmits", "u4"),
    ("out_of_order", "u4"),
    ("sha256", "V32"),
]
ROW = np.dtype(
    [
        ("first_packet", "u8"),
        ("flow", "u8"),
        ("flow_start", "i8"),
        ("flow_last", "i8"),
        ("client_ip", "V16"),
        ("server_ip", "V16"),
        ("client_port", "u2"),
        ("server_port", "u2"),
        ("proto", "u1"),
        ("ip_version", "u1"),
        ("conn_state", "u1"),
        ("reason", "u1"),
        ("client_by_syn", "?"),
        ("client_by_synack", "?"),
        ("c2s", _SIDE),
        ("s2c", _SIDE),
    ]
)
Rows = npt.NDArray[np.void]

_PLAIN = (
    "flow", "flow_start", "flow_last", "client_port", "server_port", "proto", "ip_version",
    "conn_state", "reason", "client_by_syn", "client_by_synack",
)  # fmt: skip


def rows_of(ends: EventBatch) -> Rows:
    """Copies a batch of flow.end into rows; first_packet and sha256 are left to the caller."""
    rows = np.zeros(len(ends), ROW)
    for name in _PLAIN:
        rows[name] = ends.column(name)
    for name in ("client_ip", "server_ip"):
        rows[name] = ends.column(name).view("V16").ravel()
    for way in ("c2s", "s2c"):
        for name, _ in _SIDE[:-1]:
            rows[way][name] = ends.column(f"{way}_{name}")
        rows[way]["sha256"] = np.void(EMPTY)
    return rows


def kinds_of(rows: Rows) -> Iterator[str]:
    """Yields protocol and state of each row, such as "tcp SF"."""
    states = enumeration("conn_state") or ()
    for proto, state in zip(rows["proto"].tolist(), rows["conn_state"].tolist(), strict=True):
        yield f"{PROTOCOLS.get(proto, str(proto))} {states[state]}".rstrip()


class _Row(NamedTuple):
    """ROW as Python values: as_dicts reads them ten times faster than numpy's."""

    first_packet: int
    flow: int
    flow_start: int
    flow_last: int
    client_ip: bytes
    server_ip: bytes
    client_port: int
    server_port: int
    proto: int
    ip_version: int
    conn_state: int
    reason: int
    client_by_syn: bool
    client_by_synack: bool
    c2s: tuple[int, int, int, int, int, int, bytes]
    s2c: tuple[int, int, int, int, int, int, bytes]


def as_dicts(rows: Rows) -> Iterator[dict[str, Any]]:
    """Yields each row in the form of `nfmesh flows --json` (see README.md)."""
    states = enumeration("conn_state") or ()
    for row in map(_Row._make, rows.tolist()):
        version, is_tcp = row.ip_version, row.proto == TCP
        yield {
            "proto": PROTOCOLS.get(row.proto, str(row.proto)),
            "client": endpoint(address_text(row.client_ip, version), row.client_port),
            "server": endpoint(address_text(row.server_ip, version), row.server_port),
            "client_basis": _basis(row),
            "state": states[row.conn_state] if is_tcp else None,
            "start": row.flow_start / 1e9,
            "duration": max(0, row.flow_last - row.flow_start) / 1e9,
            "c2s": _side(row.c2s, is_tcp),
            "s2c": _side(row.s2c, is_tcp),
        }


def _basis(row: _Row) -> str:
    if row.client_by_syn:
        return "syn"
    return "synack" if row.client_by_synack else "first-packet"


def _side(side: tuple[int, int, int, int, int, int, bytes], is_tcp: bool) -> dict[str, Any]:
    packets, payload, stream, gap, retransmits, out_of_order, digest = side
    return {
        "packets": packets,
        "payload_bytes": payload,
        "stream_bytes": stream,
        "gap_bytes": gap,
        "sha256": digest.hex() if is_tcp else None,
        "retransmitted": retransmits,
        "out_of_order": out_of_order,
    }
