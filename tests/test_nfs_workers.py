# SPDX-License-Identifier: Apache-2.0
"""What NFs that count over flows promise with several workers: the same as with one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from file_rig import run
from live_rig import public_folder
from pcap_file import frames_of

from mesh.errors import NFMissing
from mesh.native_nf import library_path
from mesh.ports import Frame
from mesh.testing import START_NS, SYN, datagrams, packet, tcp, timed, write_capture
from nfs.load_balancer.nf import LoadBalancer
from nfs.load_balancer.services import Backend, Service
from nfs.rate_limiter.nf import RateLimiter

try:
    library_path(LoadBalancer, LoadBalancer.native)
    library_path(RateLimiter, RateLimiter.native)
except NFMissing:
    pytest.skip("native NFs were not built", allow_module_level=True)

WORKERS = 3
Sent = tuple[dict[str, Any], list[bytes]]
Both = Callable[[str, dict[str, Any], Sequence[Frame]], list[Sent]]


@pytest.fixture
def both() -> Iterator[Both]:
    """Sends frames through an NF beside one worker, and beside several; what it says, what left."""
    with public_folder() as folder:

        def through(nf: str, config: dict[str, Any], frames: Sequence[Frame]) -> list[Sent]:
            before = folder / "before.pcap"
            write_capture(before, sorted(frames, key=lambda frame: frame.ts_ns), form="pcap-ns")
            return [sent(nf, config, before, workers) for workers in (1, WORKERS)]

        yield through


def sent(nf: str, config: dict[str, Any], before: Path, workers: int) -> Sent:
    after, spec = before.with_name(f"after-{workers}.pcap"), before.with_name("mesh.json")
    ports = [{"pcap": str(before), "out": "out"}, {"record": str(after), "name": "out"}]
    nfs = [{"use": nf, "config": config}]
    spec.write_text(json.dumps({"nfs": nfs, "ports": ports, "workers": workers}))
    report = run(str(spec))
    assert (report["warnings"], report["nfs"][0]["errors"]) == ([], [])
    return report["nfs"][0]["results"], frames_of(after)


def test_a_balancer_sends_a_flow_to_the_same_backend(both: Both) -> None:
    backends = tuple(Backend(f"10.0.0.{i}", 5300) for i in range(1, 5))
    service = Service("198.51.100.53", 53, backends, protocol="udp")
    frames = [
        frame
        for port in range(1000, 1400)
        for frame in datagrams(
            [("client", b"?")] * 2, client=("203.0.113.1", port), server=("198.51.100.53", 53)
        )
    ]
    one, many = both("load_balancer", {"services": [asdict(service)]}, frames)

    def places(frames: list[bytes]) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for frame in frames:
            port = int.from_bytes(frame[34:36])
            found.setdefault(port, set()).add(str(ip_address(frame[30:34])))
        return found

    assert places(many[1]) == places(one[1])
    assert len(places(one[1])) == 400
    assert all(len(each) == 1 for each in places(one[1]).values())
    assert many[0]["flows"] == one[0]["flows"] == 400
    assert many[0]["backends"] == one[0]["backends"]


def test_a_bucket_is_that_of_all_workers(both: Both) -> None:
    frames = [
        frame
        for source in range(20)
        for frame in datagrams(
            [("client", b"x")] * 50,
            client=(f"10.0.{source}.1", 4000),
            server=("10.0.0.53", 53),
            start_ns=START_NS + source,  # no two at the same time
            step_ns=20_000_000,
        )
    ]
    limits = ["all: 100 packets/s burst 20 packets", "each: each source 10 packets/s"]
    one, many = both("rate_limiter", {"limits": limits}, frames)
    assert 100 < one[0]["passed_packets"] < 200
    assert many[0]["passed_packets"] == one[0]["passed_packets"] == len(many[1])
    assert many[0]["limits"] == one[0]["limits"]


def test_a_flood_over_all_workers_is_one_attack(both: Both) -> None:
    attack = timed(
        [
            packet(tcp(b"", source, 1024 + n, "10.0.0.2", 80, seq=7, flags=SYN), source, to, 6)
            for n in range(3000)
            for source, to in [(f"172.16.{n // 250}.{n % 250 + 1}", "10.0.0.2")]
        ],
        step_ns=1_000_000,
    )
    one, many = both("syn_flood", {}, attack)
    for results, left in (one, many):
        [found] = results["found"]
        assert found["target"] == "10.0.0.2"
        assert results["syns"] == 3000
        assert len(left) < 600, "what came before the batches that showed it"
        assert results["held_back"] == 3000 - len(left)
