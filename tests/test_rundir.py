# SPDX-License-Identifier: Apache-2.0
"""Run folders: one instance per name, leftovers, where they are."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from mesh.errors import ProcessError
from mesh.rundir import RunFolder, running


def test_one_instance_per_name(tmp_path):
    first = RunFolder("a", tmp_path / "run")
    assert running(tmp_path / "run") == ("a",)
    with pytest.raises(ProcessError, match="runs already"):
        RunFolder("a", tmp_path / "run")
    other = RunFolder("b", tmp_path / "run")
    other.close()
    first.close()
    assert running(tmp_path / "run") == ()
    RunFolder("a", tmp_path / "run").close()


def test_leftovers_are_removed_and_said(tmp_path):
    left = tmp_path / "run" / "a"
    left.mkdir(parents=True, mode=0o700)
    (left / "lock").write_text("7\n")
    (left / "fd.sock").touch()
    (left / "old").mkdir()
    folder = RunFolder("a", tmp_path / "run")
    assert folder.notices == ["removed what an earlier instance left: fd.sock, old"]
    assert [path.name for path in folder.path.iterdir()] == ["lock"]
    folder.close()
    assert not left.exists()


@pytest.mark.parametrize("lock", [None, "of something else\n"])
def test_a_folder_of_something_else_is_not_emptied(tmp_path, lock):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    if lock is not None:
        (tmp_path / "thesis" / "lock").write_text(lock)
    with pytest.raises(ProcessError, match="no run folder"):
        RunFolder("thesis", tmp_path, is_kept=True)
    assert (tmp_path / "thesis" / "text").read_text() == "years of work"


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "a/b", "/etc", "a\nb"])
def test_a_name_is_that_of_a_folder_below_the_folder_of_all(tmp_path, name):
    with pytest.raises(ProcessError, match="no name of a mesh"):
        RunFolder(name, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a link of another user")
def test_links_of_others_are_not_followed(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "run").symlink_to("home")
    RunFolder("a", tmp_path / "run").close()
    os.chown(tmp_path / "run", 64999, 64999, follow_symlinks=False)
    with pytest.raises(ProcessError, match="a link of user 64999"):
        RunFolder("a", tmp_path / "run")


def test_a_folder_that_others_may_write_is_refused(tmp_path):
    base = tmp_path / "run"
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(ProcessError, match="not this user's alone"):
        RunFolder("a", base)


def test_a_name_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(ProcessError, match="too long"):
        RunFolder("a" * 120, tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ProcessError, match="set NFMESH_RUN"):
        RunFolder("a", tmp_path / "file")


def test_a_variable_moves_run_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("NFMESH_RUN", str(tmp_path / "elsewhere"))
    folder = RunFolder("a")
    assert folder.path == tmp_path / "elsewhere" / "a"
    assert running() == ("a",)
    folder.close()


def test_folders_of_meshes_that_died_are_removed_and_said(tmp_path):
    base = tmp_path / "run"
    alive = RunFolder("alive", base)
    code = "import os, sys; from pathlib import Path; from mesh.rundir import RunFolder; "
    code += "RunFolder(sys.argv[2], Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, base, "dead"], check=False)
    assert done.returncode == -signal.SIGKILL
    shutil.copytree(base / "dead", base / "dead-2")
    (base / "dead" / "control").touch()
    mine = base / "not-a-run-folder"
    mine.mkdir()
    (mine / "lock").write_text("of something else")
    folder = RunFolder("new", base)
    assert sorted(path.name for path in base.iterdir()) == ["alive", "new", "not-a-run-folder"]
    assert folder.notices == ["removed the run folders of meshes that have died: dead, dead-2"]
    folder.close()
    alive.close()


def test_a_folder_that_nfs_cannot_enter_is_refused(tmp_path):
    base = tmp_path / "run"
    base.mkdir(mode=0o700)
    with pytest.raises(ProcessError, match=r"chmod o\+x"):
        RunFolder("a", base, gid=os.getgid())
