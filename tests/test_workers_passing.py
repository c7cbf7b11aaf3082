# SPDX-License-Identifier: Apache-2.0
"""A capture through several workers into a capture: what passes is what came, flow by flow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from file_rig import PASS, by_flow, run, traffic, with_fragments, write_nf
from live_rig import public_folder
from pcap_file import packets

from mesh.testing import write_capture


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as made:
        yield made


@pytest.mark.parametrize(
    ("workers", "stages"), [(1, ()), (2, ()), (4, ()), (2, (0,)), (3, (0, 0)), (2, (0, 1, 1))]
)
def test_what_passes_all_judges_is_what_came(
    folder: Path, workers: int, stages: tuple[int, ...]
) -> None:
    before, after = folder / "before.pcap", folder / "after.pcap"
    write_capture(before, traffic(30), form="pcap-ns")
    nfs = [
        word
        for n, stage in enumerate(stages)
        for word in ("--nf", write_nf(folder, f"pass{n}", PASS.format(n=n, stage=stage)))
    ]
    report = run("--in", str(before), "--out", str(after), "--workers", str(workers), *nfs)
    assert by_flow(packets(after)) == by_flow(packets(before))
    assert sorted(packets(after)) == sorted(packets(before))
    assert [nf["results"]["seen"] for nf in report["nfs"]] == [report["packets"]] * len(stages)
    assert [path.name for path in folder.iterdir() if ".w" in path.name] == []
    assert report["warnings"] == []


def test_a_fragment_that_nobody_judges_passes_once(folder: Path) -> None:
    before, after = folder / "before.pcap", folder / "after.pcap"
    write_capture(before, with_fragments(20), form="pcap-ns")
    words = ["--in", str(before), "--out", str(after), "--nf", "flow_counter"]
    run(*words, "--workers", "3")
    assert after.read_bytes() == before.read_bytes()


def test_parts_that_cannot_be_joined_are_named(folder: Path) -> None:
    before, after = folder / "before.pcap", folder / "after.pcap"
    write_capture(before, traffic(4), form="pcap-ns")
    after.mkdir()
    report = run("--in", str(before), "--out", str(after), "--workers", "2")
    [warning] = report["warnings"]
    assert f"{after}: cannot write" in warning
    assert f"{after}.w0, {after}.w1" in warning
    assert sum(len(packets(Path(f"{after}.w{n}"))) for n in range(2)) == report["packets"]
