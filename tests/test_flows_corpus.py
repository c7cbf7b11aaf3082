# SPDX-License-Identifier: Apache-2.0
"""Connection records against a corpus of captures whose truth other programs established.

The corpus is not part of the project: NFMESH_CORPUS names it, or it lies in ../shared/corpus.
"""

import gzip
import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mesh import replay
from mesh.registry import Registry

ROOT = Path(__file__).resolve().parents[1]
CORPUS = Path(os.environ.get("NFMESH_CORPUS", ROOT.parent / "shared" / "corpus"))
TRUTH = CORPUS / "truth.jsonl"
TRUSTED = ("high", "single-peer")
KNOWN = json.loads((ROOT / "tests" / "known_differences.json").read_text(encoding="utf-8"))
"""Why we differ: "file stream direction" → reason."""

pytestmark = pytest.mark.skipif(not TRUTH.is_file(), reason=f"no corpus at {CORPUS}")


@dataclass
class Comparison:
    """Counts, and the directions that differ: "file stream direction" → what was seen."""

    directions: int = 0
    connections: int = 0
    other_client: list[str] = field(default_factory=list)
    other_state: list[str] = field(default_factory=list)
    other_bytes: dict[str, str] = field(default_factory=dict)


def flows_of(path):
    log = Registry.installed().nf("flow_log")(order="start")
    report = replay(path, [log])
    assert not report.errors
    return [record for record in log.records() if record["proto"] == "tcp"]


def bracketed(endpoint):
    """Truth writes IPv6 without brackets."""
    address, _, port = endpoint.rpartition(":")
    return f"[{address}]:{port}" if ":" in address else endpoint


def compare(name, truth, flows, result):
    by_pair = defaultdict(list)
    for flow in flows:
        by_pair[frozenset((flow["client"], flow["server"]))].append(flow)
    for row in truth:
        client, server = bracketed(row["client"]), bracketed(row["server"])
        same = by_pair[frozenset((client, server))]
        flow = same.pop(0) if same else None
        where = f"{name} {row['stream']}"
        result.connections += 1
        if flow is None or flow["client"] != client:
            result.other_client.append(where)
        if flow is None or flow["state"] != row["end_state"]["rule"]:
            found = flow and flow["state"]
            result.other_state.append(f"{where}: {found}, truth {row['end_state']['rule']}")
        for way, back in (("c2s", "s2c"), ("s2c", "c2s")):
            if row[way]["confidence"] not in TRUSTED:
                continue
            result.directions += 1
            side = flow and flow[way if flow["client"] == client else back]
            difference = differs(row[way]["truth"], side)
            if difference:
                result.other_bytes[f"{where} {way}"] = difference


def differs(truth, side):
    if side is None:
        return "no such connection"
    for ours, theirs in (("stream_bytes", "unique_bytes"), ("gap_bytes", "gap_bytes")):
        if side[ours] != truth[theirs]:
            return f"{ours} {side[ours]}, truth {truth[theirs]}"
    return "" if side["sha256"] == truth["sha256"] else "other bytes"


@pytest.fixture(scope="module")
def result():
    found = Comparison()
    with TRUTH.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row.get("tcp"):
                flows = flows_of(CORPUS / "captures" / row["file"])
                compare(row["file"], row["tcp"], flows, found)
    return found


def test_streams_agree_in_99_of_100_directions(result):
    assert result.directions > 7000
    assert len(result.other_bytes) <= result.directions / 100


def test_every_direction_that_differs_is_explained(result):
    unexplained = {where: what for where, what in result.other_bytes.items() if where not in KNOWN}
    assert unexplained == {}


def test_no_explanation_outlives_its_difference(result):
    assert set(KNOWN) <= set(result.other_bytes)


def test_clients_agree_in_97_of_100_connections(result):
    assert len(result.other_client) <= result.connections * 0.03, result.other_client


def test_states_agree_in_97_of_100_connections(result):
    assert len(result.other_state) <= result.connections * 0.03, result.other_state


def test_a_gzipped_capture_gives_the_same_flows(tmp_path):
    plain = CORPUS / "captures" / "zeek-http-get.pcap"
    packed = tmp_path / "x.pcap.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert flows_of(packed) == flows_of(plain)
