# SPDX-License-Identifier: Apache-2.0
"""`nfmesh capture`: what passes ports and NFs of a mesh that runs, as files that others read."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_mesh import NFMESH, LiveMesh
from live_rig import PATIENCE_S, wait_until

from mesh import NF, EventBatch, on, replay
from mesh.pcapng import Joined
from mesh.port_wrappers import Tee
from mesh.ports import Frame, Port
from mesh.testing import conversation, datagrams, write_capture

DNS = 5
"""Datagrams to port 53 in a round of the traffic."""
HALF = """
from mesh import NF, on

class Half(NF):
    '''Drops what the server says.'''

    @on("packet.tcp", mode="inline")
    def judge(self, batch):
        batch.drop(batch.src_port == 80)
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMesh]:
    """A mesh between a capture that is read for ever and a file, with an NF that drops half."""
    folder = tmp_path_factory.mktemp("capture")
    folder.chmod(0o755)
    said = [("client", b"x" * 40), ("server", b"y" * 400)] * 6
    frames = [*conversation(said, server=("10.0.0.2", 80)), *datagrams([("client", b"q")] * DNS)]
    write_capture(folder / "in.pcap", frames)
    (folder / "half.py").write_text(HALF)
    spec = {
        "nfs": [{"use": f"{folder}/half.py:Half", "name": "half"}],
        "ports": [
            {
                "name": "left",
                "pcap": str(folder / "in.pcap"),
                "out": "right",
                "replay": {"loop": True, "speed": 100},
            },
            {"name": "right", "record": "/dev/null"},
        ],
    }
    (folder / "mesh.json").write_text(json.dumps(spec))
    made = LiveMesh(None, str(folder / "mesh.json"))
    try:
        made.wait_running()
        wait_until(lambda: made.counters().get("inline.dropped", 0) > 0, made.said())
        yield made
    finally:
        made.close()


def capture(mesh: LiveMesh, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs `nfmesh capture` to its end."""
    line = [*NFMESH, "capture", *arguments]
    return subprocess.run(
        line, capture_output=True, env=mesh.environment, timeout=PATIENCE_S, check=False
    )


class Frames(NF):
    """Keeps all frames."""

    def __init__(self) -> None:
        self.found: list[bytes] = []

    @on("packet")
    def seen(self, batch: EventBatch) -> None:
        self.found += [bytes(event.frame) for event in batch]


def frames_of(source: Path | Port) -> list[bytes]:
    """Reads all frames of a file, or of a port, which is closed then."""
    nf = Frames()
    replay(source, [nf])
    return nf.found


def ports_of(frame: bytes) -> tuple[int, int]:
    """Source and destination port of a frame over IPv4 without options."""
    return int.from_bytes(frame[34:36]), int.from_bytes(frame[36:38])


def protocol(frame: bytes) -> int:
    return frame[23]


def test_a_port_shows_what_came_and_what_went(mesh: LiveMesh, tmp_path: Path) -> None:
    for at, direction in (("0", "in"), ("1", "out")):
        file = tmp_path / f"{at}.pcapng"
        done = capture(mesh, "--at", at, "--direction", direction, "--count", "60", "-w", str(file))
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith(b"60 packets captured, ")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    came, went = (frames_of(tmp_path / f"{at}.pcapng") for at in (0, 1))
    assert len(came) == len(went) == 60
    assert any(ports_of(frame)[0] == 80 for frame in came)
    assert not any(ports_of(frame)[0] == 80 and protocol(frame) == 6 for frame in went)


def test_a_filter_chooses_packets_and_a_length_cuts_them(mesh: LiveMesh, tmp_path: Path) -> None:
    file = tmp_path / "dns.pcapng"
    done = capture(
        *(mesh, "--at", "0", "--filter", "udp port 53", "--snaplen", "43", "--count", "12"),
        *("-w", str(file)),
    )
    assert done.returncode == 0, done.stderr
    found = frames_of(file)
    assert len(found) == 12
    assert {(protocol(frame), len(frame)) for frame in found} == {(17, 43)}


def test_an_nf_shows_what_it_got_and_what_it_let_pass(mesh: LiveMesh, tmp_path: Path) -> None:
    files = {way: tmp_path / f"{way}.pcapng" for way in ("in", "out", "both")}
    for way, file in files.items():
        how = ("--at", "half", "--direction", way, "--count", "60", "-w", str(file))
        done = capture(mesh, *how)
        assert done.returncode == 0, done.stderr
    got, passed, both = (frames_of(files[way]) for way in files)
    assert {protocol(frame) for frame in got} == {6}
    assert any(ports_of(frame)[0] == 80 for frame in got)
    assert passed
    assert not any(ports_of(frame)[0] == 80 for frame in passed)
    assert len(both) == 60


def test_it_ends_after_a_while_that_was_said(mesh: LiveMesh, tmp_path: Path) -> None:
    path = tmp_path / "while.pcapng"
    done = capture(mesh, "--at", "left", "--duration", "1", "-w", str(path))
    assert done.returncode == 0, done.stderr
    captured = int(done.stderr.split()[0])
    assert captured > 0
    assert len(frames_of(path)) == captured
    at_once = capture(mesh, "--at", "left", "--duration", "0", "-w", str(path))
    assert at_once.returncode == 0
    assert b" packets captured, " in at_once.stderr


def test_ctrl_c_ends_it_and_the_file_is_whole(mesh: LiveMesh, tmp_path: Path) -> None:
    file = tmp_path / "all.pcapng"
    line = [*NFMESH, "capture", "-w", str(file)]
    run = subprocess.Popen(line, stderr=subprocess.PIPE, env=mesh.environment, text=True)
    wait_until(lambda: file.exists() and file.stat().st_size > 4096, "packets in the file")
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, said
    captured, lost = (int(word) for word in said.split() if word.isdigit())
    assert len(frames_of(file)) == captured > 0
    assert lost == 0
    left = [path.name for path in Path(mesh.environment["NFMESH_RUN"]).glob("m/capture-*")]
    assert left == []


@pytest.mark.skipif(shutil.which("tshark") is None, reason="no tshark (Debian: tshark)")
def test_standard_output_can_be_piped_into_tshark(mesh: LiveMesh) -> None:
    done = capture(mesh, "--count", "40", "-w", "-")
    assert done.returncode == 0, done.stderr
    line = ["tshark", "-r", "-", "-T", "fields", "-e", "frame.interface_name"]
    shown = subprocess.run(
        line, input=done.stdout, capture_output=True, timeout=PATIENCE_S, check=True
    )
    names = shown.stdout.decode().split()
    assert len(names) == 40
    assert {Path(name).name for name in names} <= {"in.pcap", "null"}


def test_a_file_that_cannot_take_it_ends_it_and_not_the_mesh(mesh: LiveMesh) -> None:
    done = capture(mesh, "--at", "0", "-w", "/dev/full")
    assert done.returncode == 1
    assert b"/dev/full: no space left" in done.stderr.lower()
    assert mesh.status()["state"] == "running"


def test_a_reader_that_is_gone_ends_the_recording(mesh: LiveMesh, tmp_path: Path) -> None:
    line = [*NFMESH, "capture", "--at", "0", "-w", str(tmp_path / "killed.pcapng")]
    run = subprocess.Popen(line, env=mesh.environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "killed.pcapng").exists(), "a file")
    wait_until(lambda: (tmp_path / "killed.pcapng").stat().st_size > 0, "packets in it")
    run.kill()
    run.wait()

    def works() -> bool:
        how = ("--at", "0", "--count", "5", "-w", str(tmp_path / "next.pcapng"))
        return capture(mesh, *how).returncode == 0

    wait_until(works, "another recording at this port")


def test_what_the_mesh_replays_is_never_written(mesh: LiveMesh, tmp_path: Path) -> None:
    replayed = Path(mesh.status()["workers"]["worker-0"]["ports"][0]["source"])
    link = tmp_path / "other.pcapng"
    link.symlink_to(replayed)
    before = replayed.read_bytes()
    done = capture(mesh, "--at", "half", "-w", str(link))
    assert (done.returncode, replayed.read_bytes()) == (2, before)
    assert "is read by this mesh" in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--at", "hulf"], "no such port or NF; did you mean 'half'"),
        (["--filter", "prot 80"], "no field 'prot' here"),
        (["-w", "/no/such/folder/x"], "/no/such/folder/x"),
    ],
)
def test_what_makes_no_sense_is_explained(mesh: LiveMesh, arguments: list[str], says: str) -> None:
    done = capture(mesh, *arguments)
    assert done.returncode == 2
    assert says in done.stderr.decode()


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_streams_are_joined_whatever_pieces_they_come_in(tmp_path: Path, step: int) -> None:
    streams = []
    for number in (0, 1):
        frames = [Frame(bytes([number]) * size, 1000 + size) for size in range(60, 70)]
        tee = Tee(Port.memory(frames))
        tee.start(tmp_path / str(number))
        assert len(frames_of(tee)) == 10
        streams.append((tmp_path / str(number)).read_bytes())
    joined, out = Joined(["left", "a b"]), b""
    for at in range(0, max(map(len, streams)), step):
        for number, stream in enumerate(streams):
            out += joined.take(number, stream[at : at + step])
    (tmp_path / "out").write_bytes(out)
    assert (joined.captured, joined.lost) == (20, 0)
    found = frames_of(tmp_path / "out")
    for number in (0, 1):
        sizes = [len(frame) for frame in found if frame[0] == number]
        assert sizes == list(range(60, 70))
    assert Joined(["x"], most=3).take(0, streams[0]).count(b"\x06\0\0\0") == 3
