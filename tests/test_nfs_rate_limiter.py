# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

import mesh
from mesh import Catalogue
from mesh.compose import NFUse
from mesh.errors import NFError, SpecError
from mesh.native_events import core_events
from mesh.ports import Port
from mesh.testing import datagrams, write_capture
from nfs.rate_limiter.limits import Each, parse
from nfs.rate_limiter.nf import RateLimiter

FIELDS = Catalogue(core_events()).fields("packet")
MS = 1_000_000


def limited(tmp_path: Path, frames, *limits, **options):
    """Sends frames through limits; returns the results and how many frames came out."""
    source, out = tmp_path / "in.pcapng", tmp_path / "out.pcap"
    write_capture(source, sorted(frames, key=lambda frame: frame.ts_ns))
    use = NFUse(RateLimiter, options={"limits": limits, **options})
    report = mesh.replay(source, [use], sink=Port.record(out, "pcap"))
    assert not report.errors
    results = report["rate_limiter"].results
    assert results["passed_packets"] == report.counters["forward.packets"]
    assert results["dropped_packets"] == report.counters.get("inline.dropped", 0)
    return results


def burst(count, source="10.0.0.1", port=53, step_ns=MS, sport=4000):
    said = [("client", b"x" * 58)] * count  # frames of 100 bytes
    return datagrams(said, client=(source, sport), server=("10.0.0.53", port), step_ns=step_ns)


def test_a_class_passes_its_burst_and_its_rate(tmp_path):
    results = limited(tmp_path, burst(1001), "all: 100 packets/s burst 20 packets")
    assert results["passed_packets"] == 20 + 100
    [row] = results["limits"]
    assert row == {
        "limit": "all",
        "passed_packets": 120,
        "passed_bytes": 12000,
        "dropped_packets": 881,
        "dropped_bytes": 88100,
    }


def test_sources_are_limited_one_by_one_and_the_worst_are_named(tmp_path):
    frames = burst(50) + burst(20, "10.0.0.2") + burst(5, "10.0.0.3")
    results = limited(tmp_path, frames, "each: each source 1 packets/s burst 10 packets")
    assert results["passed_packets"] == 25
    assert [(row["who"], row["dropped_packets"]) for row in results["worst"]] == [
        ("10.0.0.1", 40),
        ("10.0.0.2", 10),
    ]


def test_a_prefix_shares_a_bucket(tmp_path):
    frames = burst(10) + burst(10, "10.0.0.2") + burst(10, "10.0.1.2")
    results = limited(tmp_path, frames, "net: each source/24 1 packets/s burst 4 packets")
    assert results["passed_packets"] == 8
    assert {row["who"] for row in results["worst"]} == {"10.0.0.0/24", "10.0.1.0/24"}


def test_flows_are_limited_one_by_one_by_their_bits(tmp_path):
    frames = burst(10, sport=1) + burst(10, sport=2)
    results = limited(tmp_path, frames, "flow: each flow 8 bit/s burst 300 bytes")
    assert results["passed_packets"] == 6
    assert results["worst"][0]["who"] in {f"10.0.0.1:{port} 10.0.0.53:53 17" for port in (1, 2)}


def test_filters_make_classes_and_what_is_in_none_is_free(tmp_path):
    frames = burst(30) + burst(30, port=123, sport=1) + burst(30, port=99, sport=2)
    results = limited(
        tmp_path,
        frames,
        "dns: 1 packets/s burst 5 packets where udp port 53",
        "ntp: 1 packets/s burst 7 packets where dst_port == 123",
    )
    assert [row["passed_packets"] for row in results["limits"]] == [5, 7]
    assert results["passed_packets"] == 5 + 7 + 30


def test_limits_may_be_one_text(tmp_path):
    frames = burst(30) + burst(30, port=123, sport=1)
    one = "dns: 1 packets/s burst 5 packets where udp port 53; all: 1 packets/s burst 20 packets"
    source = tmp_path / "in.pcapng"
    write_capture(source, frames)
    use = NFUse(RateLimiter, options={"limits": one})
    sink = Port.record(tmp_path / "out.pcap", "pcap")
    results = mesh.replay(source, [use], sink=sink)["rate_limiter"].results
    assert [row["limit"] for row in results["limits"]] == ["dns", "all"]
    assert results["passed_packets"] == 20


def test_ipv6_sources_have_prefixes_of_their_own(tmp_path):
    frames = []
    for host in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"):
        frames += datagrams([("client", b"x")] * 5, client=(host, 1), server=("2001:db8::53", 53))
    results = limited(tmp_path, frames, "v6: each source/24,64 1 packets/s burst 2 packets")
    assert results["passed_packets"] == 4


def test_memory_is_bounded(tmp_path):
    frames = [f for host in range(100) for f in burst(1, f"10.0.1.{host}")]
    results = limited(
        tmp_path, frames, "each: each source 1 packets/s burst 1 packets", max_buckets=64
    )
    assert results["buckets"] == 64
    assert results["buckets_evicted"] == 36


def test_observing_only_counts(tmp_path):
    source = tmp_path / "in.pcapng"
    write_capture(source, burst(10))
    use = NFUse(
        RateLimiter, options={"limits": ("a: 1 packets/s burst 2 packets",)}, mode="observe"
    )
    results = mesh.replay(source, [use])["rate_limiter"].results
    assert (results["passed_packets"], results["dropped_packets"]) == (2, 8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no colon 10 packets/s", "write a limit as"),
        ("a: fast", "cannot read 'fast'"),
        ("a: 10 packets", "cannot read '10 packets'"),
        ("a: 10 packets/s burst 3 MB", "a burst of bytes needs a rate"),
        ("a: burst 3 packets", "has no rate"),
        ("a: 1 packets/s 2 packets/s", "given twice"),
        ("a: 0.5 packets/s", "is not within 1.."),
        ("a: 1000001 Gbit/s", "is not within 1.."),
        ("a: each flow/24 1 packets/s", "only sources have a prefix"),
        ("a: each source/33 1 packets/s", "at most 32 bits"),
        ("a: 1 Mbit/s burst 3000 MB", "2000 MB"),
        ("a: 1 packets/s where colour == 3", "colour"),
    ],
)
def test_mistakes_are_named(text, words):
    with pytest.raises(SpecError, match=words) as caught:
        parse(["good: 1 packets/s", text], FIELDS)
    assert caught.value.path == "limits[1]"


def test_a_limit_is_read_whole():
    [limit] = parse(["x: each source/24,56 1.5 Mbit/s burst 2 kB 9 packets/s where udp"], FIELDS)
    assert (limit.each, limit.prefix4, limit.prefix6) == (Each.SOURCE, 24, 56)
    assert (limit.bits_per_s, limit.burst_bytes) == (1_500_000, 2000)
    assert (limit.packets_per_s, limit.burst_packets, limit.where) == (9, 1, "udp")


@pytest.mark.parametrize(
    "limits", [(), ("a: 1 packets/s",) * 2, tuple(f"l{i}: 1 bit/s" for i in range(33))]
)
def test_none_the_same_twice_or_too_many(limits):
    with pytest.raises(SpecError):
        parse(limits, FIELDS)


def test_a_filter_that_libpcap_refuses_stops_the_start(tmp_path):
    with pytest.raises((NFError, SpecError)):
        limited(tmp_path, burst(1), "a: 1 packets/s where host nowhere.invalid")
