"""Files of NFs: opened by the user who runs the mesh, and nothing else than what was named."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mesh_rig import Rig, rig

from mesh.errors import SpecError
from mesh.nf import NF
from mesh.outputs import Outputs, check_apart, open_output, output_paths

OTHER = 64999
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of other users")


class Writes(NF):
    writes = ("path", "also")

    def __init__(self, path: str = "", also: str | None = "log.txt", limit: int = 3) -> None: ...


def written(path: Path, data: bytes) -> None:
    fd = open_output(str(path))
    os.write(fd, data)
    os.close(fd)


def test_the_files_of_an_nf_are_what_its_options_name():
    assert output_paths(Writes, {}, "./out") == ("out/log.txt",)
    assert output_paths(Writes, {"path": "/a/b", "also": None}, "out") == ("/a/b",)
    assert output_paths(Writes, {"path": "-", "also": ""}, "out") == ()


def test_a_new_file_is_made_and_an_own_one_emptied(tmp_path):
    written(tmp_path / "x", b"first, and long")
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644 & ~umask()
    written(tmp_path / "x", b"second")
    assert (tmp_path / "x").read_bytes() == b"second"


def umask() -> int:
    os.umask(found := os.umask(0))
    return found


def test_what_is_read_is_not_written_under_any_name(tmp_path):
    (tmp_path / "day.pcap").touch()
    (tmp_path / "other").symlink_to("day.pcap")
    os.link(tmp_path / "day.pcap", tmp_path / "third")
    day = str(tmp_path / "day.pcap")
    for name in ("day.pcap", "other", "third", "../" + tmp_path.name + "/day.pcap"):
        for words in (([str(tmp_path / name)], ()), ((), [str(tmp_path / name)])):
            with pytest.raises(SpecError, match="read by this mesh"):
                check_apart([day], *words)
    with pytest.raises(SpecError, match="written by two ports"):
        check_apart([day], [str(tmp_path / "x"), str(tmp_path / "." / "x")])
    check_apart([day], [str(tmp_path / "x"), "/dev/null", "/dev/null"], [str(tmp_path / "y")] * 2)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("kept")
    (tmp_path / "x").symlink_to("secret")
    with pytest.raises(SpecError, match="no ordinary file"):
        open_output(str(tmp_path / "x"))
    (tmp_path / "y").symlink_to("not-there")
    with pytest.raises(SpecError, match="no ordinary file"):
        open_output(str(tmp_path / "y"))
    os.link(tmp_path / "secret", tmp_path / "z")
    with pytest.raises(SpecError, match="another name"):
        open_output(str(tmp_path / "z"))
    assert (tmp_path / "secret").read_text() == "kept"
    assert not (tmp_path / "not-there").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(SpecError, match="no ordinary file"):
        open_output(str(tmp_path / "x"))


def test_no_folder_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(SpecError, match=r"none/x: No such file or directory; make the folder"):
        open_output(str(tmp_path / "none" / "x"))


@needs_root
def test_a_file_of_another_user_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "x").write_text("theirs")
    os.chown(tmp_path / "x", OTHER, OTHER)
    with pytest.raises(SpecError, match=f"is user {OTHER}'s; remove it"):
        open_output(str(tmp_path / "x"))
    assert (tmp_path / "x").read_text() == "theirs"
    assert (tmp_path / "x").stat().st_uid == OTHER


@needs_root
def test_a_folder_may_be_reached_by_an_own_link_only(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "own").symlink_to("real")
    (tmp_path / "theirs").symlink_to("real")
    os.chown(tmp_path / "theirs", OTHER, OTHER, follow_symlinks=False)
    written(tmp_path / "own" / "x", b"1")
    with pytest.raises(SpecError, match=f"'theirs' on the way is a link of user {OTHER}"):
        open_output(str(tmp_path / "theirs" / "y"))
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["x"]


def test_outputs_stay_open_as_long_as_somebody_wants_them(tmp_path):
    names = [f"file/{tmp_path}/a", f"file/{tmp_path}/b", "ring/x/w0"]
    outputs = Outputs()
    outputs.open(names)
    os.write(outputs.handles(names)[names[0]].fd, b"once")
    outputs.open(names)
    assert sorted(outputs.handles(names)) == names[:2]
    assert (tmp_path / "a").read_bytes() == b"once"
    outputs.keep({names[1]})
    assert sorted(outputs.handles(names)) == [names[1]]
    outputs.close()
    assert outputs.handles(names) == {}


# ---- in a mesh ----------------------------------------------------------------------------------

NOTES = """
class Notes(NF):
    writes = ("path",)
    def __init__(self, path: str = "notes.txt"):
        self.path = path
    def start(self, ctx):
        self.file = ctx.open(self.path)
        self.file.write(f"uid {os.getuid()}\\n")
        self.file.flush()
    @on("flow.end")
    def end(self, batch):
        stand_still()
    def stop(self):
        self.file.close()
"""


@pytest.fixture
def mesh() -> Iterator[Rig]:
    with rig() as made:
        (made.folder / "out").mkdir(mode=0o700)
        yield made


def test_an_nf_writes_where_only_the_user_of_the_mesh_may(mesh):
    out = mesh.folder / "out"
    nfs = [
        {"use": "flow_log", "config": {"path": "flows.csv"}},
        {"use": "http_log", "config": {"path": str(out / "http.jsonl")}},
        {"use": mesh.nf("notes", NOTES)},
    ]
    mesh.start(nfs, mesh.capture(20), out=str(out))
    mesh.report()
    assert len((out / "flows.csv").read_text().splitlines()) == 21
    rows = [json.loads(line) for line in (out / "http.jsonl").read_text().splitlines()]
    assert [row["target"] for row in rows] == [f"/{i}" for i in range(20)]
    uid = mesh.supervisor.children["notes"].identity.effective_uid
    assert (out / "notes.txt").read_text() == f"uid {uid}\n"
    assert {path.stat().st_uid for path in out.iterdir()} == {os.geteuid()}


def test_an_nf_that_is_started_again_writes_on(mesh):
    out = mesh.folder / "out"
    mesh.start([{"use": mesh.nf("notes", NOTES), "ring": 64}], mesh.capture(1000), out=str(out))
    pid = mesh.running("notes")
    os.kill(pid, signal.SIGKILL)
    mesh.running("notes", after=pid)
    mesh.report()
    assert len((out / "notes.txt").read_text().splitlines()) == 2


def test_a_file_that_cannot_be_opened_ends_the_run_before_it_begins(mesh):
    nfs = [{"use": mesh.nf("notes", NOTES), "config": {"path": "none/x"}}]
    mesh.start(nfs, mesh.capture(20), out=str(mesh.folder / "out"))
    error = mesh.wait().error
    assert error.startswith(f"{mesh.folder}/out/none/x: No such file or directory; make the folder")


@needs_root
def test_an_nf_that_opens_a_file_by_itself_is_told_the_other_way(mesh):
    body = NOTES.replace("ctx.open(self.path)", "open(ctx.out / self.path, 'w')")
    mesh.start([{"use": mesh.nf("notes", body)}], mesh.capture(20), out=str(mesh.folder / "out"))
    outcome = mesh.wait()
    assert outcome.start_failed == ("notes",)
    [text] = outcome.report["nfs"][0]["errors"]
    assert "PermissionError" in text
    assert f"the NF runs as user {mesh.settings.users.first}" in text
    assert "NF.writes" in text
