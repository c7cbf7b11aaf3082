# SPDX-License-Identifier: Apache-2.0
"""`capture` of a port's spec: what passes it goes into files from the start, whatever comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from file_rig import datagram
from live_mesh import LiveMesh
from live_rig import public_folder

from mesh import NF, EventBatch, on, replay
from mesh.errors import SpecError
from mesh.spec import parse
from mesh.testing import timed, write_capture

N = 3600
"""Frames that fit the memory of a recording all at once: none is lost, however late it is read."""
BYTES = 1000
"""Of a payload: a file of 1 MB has about a thousand frames."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as made:
        frames = [
            datagram(f"10.9.{n % 7}.1", 53 if n % 4 else 54, f"{n:06}".encode() + bytes(BYTES))
            for n in range(N)
        ]
        write_capture(made / "in.pcap", timed(frames), form="pcap-ns")
        yield made


class Numbers(NF):
    """Takes down which frames there are."""

    def __init__(self) -> None:
        self.found: list[int] = []

    @on("packet")
    def see(self, batch: EventBatch) -> None:
        self.found += [int(bytes(event.frame[42:48])) for event in batch]


def numbers(path: Path) -> list[int]:
    nf = Numbers()
    replay(path, [nf])
    return nf.found


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:
    """Runs a mesh to its end: a capture, with `capture`, to a record port; returns the report."""
    meshes: list[LiveMesh] = []

    def begin(capture: object, **more: object) -> dict[str, Any]:
        came = {"pcap": str(folder / "in.pcap"), "out": "out", "capture": capture}
        spec = {"ports": [came, {"record": "/dev/null", "name": "out"}], **more}
        (folder / "mesh.json").write_text(json.dumps(spec))
        meshes.append(LiveMesh(None, str(folder / "mesh.json")))
        return meshes[-1].wait()

    yield begin
    for mesh in meshes:
        mesh.close()


def counters(report: dict[str, Any]) -> dict[str, int]:
    return {name[8:]: n for name, n in report["counters"].items() if name.startswith("capture.")}


def test_all_that_passes_is_in_the_file_and_files_follow_each_other(folder: Path, run: Run) -> None:
    report = run({"path": str(folder / "wire.pcapng"), "max_mb": 1, "files": 3})
    found = counters(report)
    assert found["written"] == N
    assert found["files"] == 4
    assert not report["warnings"]
    names = ["wire.2.pcapng", "wire.1.pcapng", "wire.pcapng"]
    assert sorted(path.name for path in folder.glob("wire*")) == sorted(names)
    kept = [number for name in names for number in numbers(folder / name)]
    assert kept == list(range(N))[-len(kept) :]
    assert 2 * 900 < len(kept) < N
    assert all((folder / name).stat().st_mode & 0o077 == 0 for name in names)


def test_what_an_earlier_mesh_captured_is_put_aside(folder: Path, run: Run) -> None:
    capture = {"path": str(folder / "wire.pcapng"), "filter": "dst port 54"}
    for _ in range(2):
        assert counters(run(capture)) == {"written": N // 4, "files": 1}
    for name in ("wire.pcapng", "wire.1.pcapng"):
        assert numbers(folder / name) == list(range(0, N, 4))


def test_several_workers_read_a_capture_and_one_keeps_it(folder: Path, run: Run) -> None:
    report = run(str(folder / "wire.pcapng"), workers=2)
    assert counters(report) == {"written": N, "files": 1}
    assert numbers(folder / "wire.pcapng") == list(range(N))


def test_a_disk_that_is_full_is_said_and_counted_and_packets_pass(run: Run) -> None:
    report = run("/dev/full")
    found = counters(report)
    assert found["failed"] == 1
    assert found["lost"] + found.get("written", 0) == N
    assert found["lost"] > 0
    [warning] = report["warnings"]
    assert "its capture is over, packets pass: /dev/full" in warning
    assert "free some space" in warning
    assert report["counters"]["forward.packets"] == N


def test_a_file_that_cannot_be_is_said_before_a_packet_is_read(folder: Path) -> None:
    came = {"pcap": str(folder / "in.pcap"), "out": 1, "capture": f"{folder}/no/wire.pcapng"}
    (folder / "mesh.json").write_text(json.dumps({"ports": [came, {"record": "/dev/null"}]}))
    mesh = LiveMesh(None, str(folder / "mesh.json"))
    try:
        with pytest.raises(AssertionError, match=r"no/wire\.pcapng"):
            mesh.wait()
    finally:
        mesh.close()


@pytest.mark.parametrize(
    ("capture", "says"),
    [
        ({"max_mb": 1}, r"ports\[0\]\.capture\.path"),
        ({"path": "x", "files": 0}, r"ports\[0\]\.capture\.files"),
        ({"path": "x", "size": 1}, "size"),
        ("a\nb", "printable"),
    ],
)
def test_words_that_make_no_sense_are_explained(capture: object, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse({"ports": [{"afpacket": "eth0", "capture": capture}]})
    with pytest.raises(SpecError, match="is a capture"):
        parse({"ports": [{"record": "x.pcap", "capture": "y.pcapng"}]})
