# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import NF, on
from mesh.errors import SpecError
from mesh.testing import START_NS, conversation, datagrams, replay_frames
from nfs.heavy_hitter.nf import HeavyHitter
from nfs.heavy_hitter.summary import Summary

SECOND = 1_000_000_000
BEGIN_NS = START_NS // (10 * SECOND) * 10 * SECOND

stream = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1000)), max_size=80)


def summarised(blocks, size):
    summary, truth = Summary(size, 3), Counter()
    for block in blocks:
        keys = np.array([[0, 7, key] for key, _ in block], np.uint8).reshape(-1, 3)
        summary.add(keys, np.array([weight for _, weight in block], np.int64))
        for key, weight in block:
            truth[key] += weight
    return summary, truth


def check_bounds(summary, truth):
    found = {key[2]: sum_ for key, sum_ in summary.top(summary.size)}
    assert len(found) == len(summary.sums) <= summary.size
    assert summary.total == truth.total()
    assert summary.error * (summary.size + 1) <= summary.total
    for key, weight in truth.items():
        assert found.get(key, 0) <= weight <= found.get(key, 0) + summary.error
        assert key in found or weight * (summary.size + 1) <= summary.total


@settings(max_examples=200, deadline=None)
@given(st.lists(stream, max_size=6), st.integers(1, 12))
def test_sums_are_within_their_bounds_however_the_stream_is_cut(blocks, size):
    check_bounds(*summarised(blocks, size))


@settings(max_examples=100, deadline=None)
@given(st.lists(stream, max_size=4), st.lists(stream, max_size=4), st.integers(1, 12))
def test_merged_summaries_keep_the_bound(one, other, size):
    summary, truth = summarised(one, size)
    second, more = summarised(other, size)
    summary.merge(second)
    check_bounds(summary, truth + more)


def test_the_bound_is_not_idle():
    """A stream that makes the error as large as it may be."""
    summary, truth = summarised([[(key, 10) for key in range(10)]], 9)
    assert (summary.error, summary.total) == (10, 100)
    check_bounds(summary, truth)


class Hears(NF):
    """Collects what is published."""

    def __init__(self):
        self.found = []

    @on("heavy_hitter.found")
    def heard(self, batch):
        self.found += [(e.kind, e.unit, e.who, e.at_least, e.at_most, e.total) for e in batch]


def udp(count, source, port=53, size=58, start_ns=BEGIN_NS, step_ns=1_000_000):
    said = [("client", b"x" * size)] * count
    return datagrams(
        said, client=source, server=("10.0.0.9", port), start_ns=start_ns, step_ns=step_ns
    )


def run(frames, **options):
    hears = Hears()
    frames = sorted(frames, key=lambda frame: frame.ts_ns)
    report = replay_frames(frames, [HeavyHitter(**options), hears])
    assert not report.errors
    return hears.found, report["heavy_hitter"].results


def test_the_heaviest_of_a_window_are_reported_when_it_ends():
    frames = udp(60, ("10.0.0.1", 1)) + udp(30, ("10.0.0.2", 2), port=99)
    frames += udp(10, ("10.0.0.3", 3), size=958)
    frames += udp(1, ("10.0.0.4", 4), start_ns=BEGIN_NS + 11 * SECOND)
    found, results = run(frames, share=0.3)
    assert [row for row in found if row[0] == "source"] == [
        ("source", "bytes", "10.0.0.3", 10000, 10000, 19000),
        ("source", "bytes", "10.0.0.1", 6000, 6000, 19000),
        ("source", "packets", "10.0.0.1", 60, 60, 100),
        ("source", "packets", "10.0.0.2", 30, 30, 100),
    ]
    assert ("flow", "packets", "10.0.0.1:1 10.0.0.9:53 udp", 60, 60, 100) in found
    assert ("port", "packets", "53/udp", 70, 70, 100) in found
    assert results["windows"] == 1


def test_a_window_begins_afresh_and_results_are_of_all():
    frames = udp(50, ("10.0.0.1", 1)) + udp(50, ("10.0.0.2", 1), start_ns=BEGIN_NS + 10 * SECOND)
    found, results = run(frames, kinds=("source",), share=0.5)
    assert {row[2] for row in found} == {"10.0.0.1"}
    rows = [row for row in results["found"] if row["unit"] == "packets"]
    assert [(row["who"], row["at_least"]) for row in rows] == [("10.0.0.1", 50), ("10.0.0.2", 50)]


def test_both_directions_of_a_connection_are_one_flow_and_two_sources():
    frames = conversation([("client", b"x" * 100), ("server", b"y" * 5000)])
    _, results = run(frames, share=0.01)
    flows = [row for row in results["found"] if row["kind"] == "flow" and row["unit"] == "packets"]
    assert [(row["who"], row["at_least"]) for row in flows] == [
        ("10.0.0.1:40000 10.0.0.2:80 tcp", len(frames))
    ]
    sources = [row["who"] for row in results["found"] if row["kind"] == "source"]
    assert sources == ["10.0.0.2", "10.0.0.1", "10.0.0.1", "10.0.0.2"]


def test_ipv6_is_told_from_ipv4():
    said = [("client", b"x")]
    frames = datagrams(said, client=("a00:1::", 1), server=("2001:db8::1", 2))
    frames += udp(1, ("10.0.0.1", 1), size=1)
    _, results = run(frames, kinds=("source", "flow"))
    assert {row["who"] for row in results["found"]} == {
        "10.0.0.1",
        "a00:1::",
        "10.0.0.1:1 10.0.0.9:53 udp",
        "[a00:1::]:1 [2001:db8::1]:2 udp",
    }


def test_few_counters_find_who_is_heavy_among_many():
    frames = [f for host in range(200) for f in udp(1, (f"10.0.1.{host}", 1))]
    frames += udp(150, ("10.0.0.1", 1), step_ns=6)
    _, results = run(frames, kinds=("source",), counters=9, share=0.3)
    rows = [row for row in results["found"] if row["unit"] == "packets"]
    assert rows[0]["who"] == "10.0.0.1"
    assert rows[0]["at_least"] <= 150 <= rows[0]["at_most"]
    assert rows[0]["at_most"] - rows[0]["at_least"] <= 350 / 10


@pytest.mark.parametrize("options", [{"kinds": ("sauce",)}, {"share": 0.0001}])
def test_options_without_sense_are_refused(options):
    with pytest.raises(SpecError):
        HeavyHitter(**options)
