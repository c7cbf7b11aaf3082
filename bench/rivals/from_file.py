# SPDX-License-Identifier: Apache-2.0
"""Python packet libraries over a capture that nfm-workload wrote.

    python from_file.py dpkt|scapy|nfstream CAPTURE.pcap

Counts packets, flows and payload bytes and prints one JSON line: what was counted, what
CAPTURE.pcap.truth.json says it holds, and the processor time. dpkt and scapy parse frames that were
read before; NFStream reads the file itself, so the time of merely reading it stands apart.
Exit code 3: the library is not installed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

Frame = tuple[float, bytes]


@dataclass
class Count:
    """What a library saw."""

    packets: int = 0
    flows: int = 0
    bytes: int = 0


def cpu_ns() -> int:
    """Processor time of this process and of the children it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return int(sum(u.ru_utime + u.ru_stime for u in used) * 1e9)


def read_frames(path: Path) -> Iterator[Frame]:
    """Yields time and bytes of each packet of a nanosecond pcap in this machine's byte order."""
    data = path.read_bytes()
    if struct.unpack_from("=I", data)[0] != 0xA1B23C4D:
        raise SystemExit(f"{path}: not written by nfm-workload on a machine of this kind")
    at = 24
    while at < len(data):
        seconds, ns, length, _ = struct.unpack_from("=IIII", data, at)
        at += 16
        yield seconds + ns / 1e9, data[at : at + length]
        at += length


def flow_key(proto: int, src: bytes, dst: bytes, sport: int, dport: int) -> tuple[object, ...]:
    """One key for both directions."""
    a, b = (src, sport), (dst, dport)
    return (proto, a, b) if a < b else (proto, b, a)


def with_dpkt(frames: list[Frame]) -> Count:
    """Parses each frame and keeps a dictionary of flows."""
    import dpkt

    count, flows = Count(), set()
    for _, frame in frames:
        ip = dpkt.ethernet.Ethernet(frame).data
        segment = ip.data
        flows.add(flow_key(ip.p, ip.src, ip.dst, segment.sport, segment.dport))
        count.bytes += len(segment.data)
        count.packets += 1
    count.flows = len(flows)
    return count


def with_scapy(frames: list[Frame]) -> Count:
    """The same with scapy's layers."""
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.l2 import Ether

    count, flows = Count(), set()
    for _, frame in frames:
        ip = Ether(frame)[IP]
        segment = ip[TCP] if ip.proto == 6 else ip[UDP]
        key = flow_key(ip.proto, ip.src.encode(), ip.dst.encode(), segment.sport, segment.dport)
        flows.add(key)
        count.bytes += len(segment.payload)
        count.packets += 1
    count.flows = len(flows)
    return count


def with_nfstream(path: Path) -> Count:
    """NFStream without DPI and statistics; bytes are of the payload (accounting mode 3)."""
    from nfstream import NFStreamer

    count = Count()
    for flow in NFStreamer(source=str(path), n_dissections=0, accounting_mode=3, n_meters=1):
        count.flows += 1
        count.packets += flow.bidirectional_packets
        count.bytes += flow.bidirectional_bytes
    return count


def measure(name: str, path: Path) -> dict[str, object]:
    """Runs one library and returns the JSON line."""
    start = cpu_ns()
    frames = list(read_frames(path))
    read_ns = cpu_ns() - start
    parsers: dict[str, Callable[[list[Frame]], Count]] = {"dpkt": with_dpkt, "scapy": with_scapy}
    start = cpu_ns()
    count = parsers[name](frames) if name in parsers else with_nfstream(path)
    spent = cpu_ns() - start
    truth = json.loads(Path(f"{path}.truth.json").read_text())
    return {
        "name": name,
        "workload": truth["workload"],
        "packets": count.packets,
        "flows": count.flows,
        "bytes": count.bytes,
        "cpu_ns": spent,
        "read_ns": read_ns,
        "want_packets": truth["packets"],
        "want_flows": truth["flows"],
        "want_bytes": sum(truth["payload_bytes"]),
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=("dpkt", "scapy", "nfstream"))
    parser.add_argument("capture", type=Path)
    args = parser.parse_args()
    try:  # here, so that loading the library is not part of the time
        importlib.import_module("scapy.layers.inet" if args.name == "scapy" else args.name)
    except ImportError:
        print(f"{args.name} is not installed: pip install {args.name}", file=sys.stderr)
        return 3
    print(json.dumps(measure(args.name, args.capture)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
