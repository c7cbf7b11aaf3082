# SPDX-License-Identifier: Apache-2.0
"""Alerts as records in the manner of Suricata's EVE: what tools that read those look for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from mesh._ffi import native
from mesh.declare import Origin
from nfs.ids.rules import Rule

__all__ = ["Found", "eve_record"]

_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "IPv6-ICMP", 132: "SCTP"}
_PORTS = frozenset((6, 17, 33, 132, 136))


@dataclass(frozen=True, slots=True)
class Found:
    """An alert: verdict is the nfm_action that was given."""

    rule: Rule
    about: Origin
    position: int
    verdict: int

    @property
    def seconds(self) -> float:
        """Event time, since the epoch: nfm_record begins with it in nanoseconds."""
        return int.from_bytes(self.about.record[:8], "little", signed=True) / 1e9


def eve_record(found: Found) -> dict[str, Any]:
    """Returns an alert as an EVE record."""
    ffi = native().ffi
    record = ffi.from_buffer("nfm_record *", found.about.record)
    flow = ffi.from_buffer("nfm_flow_info *", found.about.flow or bytes(64))
    source = int(record.side)
    size = 4 if flow.ip_version == 4 else 16
    ends = [str(ip_address(bytes(flow.addr[side])[:size])) for side in (source, 1 - source)]
    row: dict[str, Any] = {
        "timestamp": _time(int(record.ts_ns)),
        "flow_id": int(record.flow),
        "pcap_cnt": int(record.packet),
        "event_type": "alert",
        "src_ip": ends[0],
        "dest_ip": ends[1],
        "proto": _PROTOCOLS.get(int(flow.proto), str(int(flow.proto))),
    }
    if flow.proto in _PORTS:
        row["src_port"], row["dest_port"] = int(flow.port[source]), int(flow.port[1 - source])
    row["alert"] = _alert(found)
    return row


def _alert(found: Found) -> dict[str, Any]:
    meaning = found.rule.meaning
    alert: dict[str, Any] = {
        "action": "blocked" if found.verdict else "allowed",
        "gid": meaning.gid,
        "signature_id": meaning.sid,
        "rev": meaning.rev,
        "signature": meaning.msg,
        "category": meaning.classtype,
        "severity": meaning.severity,
    }
    if meaning.metadata:
        alert["metadata"] = _by_key(meaning.metadata)
    if meaning.references:
        alert["references"] = meaning.references
    return alert


def _by_key(texts: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        key, _, value = text.partition(" ")
        found.setdefault(key, []).append(value.strip())
    return found


def _time(ts_ns: int) -> str:
    """RFC 3339 in microseconds, as EVE has it."""
    seconds, rest = divmod(ts_ns, 1_000_000_000)
    whole = datetime.fromtimestamp(seconds, UTC)
    return whole.strftime("%Y-%m-%dT%H:%M:%S") + f".{rest // 1000:06d}+0000"
