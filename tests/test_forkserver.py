"""The fork server: whose children it makes, what they have, and what happens without it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mesh_rig import is_alive, rig, wait_for

import mesh.forks
from mesh.forks import ForkServer, ForkServerGone, Order
from mesh.process import Identity, Process

CHILD = "fork_child"
ENDLESS = """
class Endless(NF):
    @on("flow.end")
    def end(self, batch):
        stand_still()
"""


@pytest.fixture
def forks(monkeypatch) -> Iterator[ForkServer]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    made = ForkServer()
    yield made
    made.close()


def forked(forks: ForkServer, **order: Any) -> tuple[int, dict[str, Any]]:
    """Has a child forked; returns its pid and what it says of itself."""
    out, into = os.pipe()
    with open(out, "rb") as pipe:
        try:
            pid = forks.fork(Order(CHILD, ("--word", "x"), "somebody", **order), into)
        finally:
            os.close(into)
        return pid, json.loads(pipe.read())


def test_a_child_is_this_process_own_and_has_what_an_executed_one_would(forks):
    core = min(os.sched_getaffinity(0))
    pid, found = forked(forks, cores=(core,))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert found.pop("parent") == os.getpid()
    assert found.pop("session") == pid
    assert found.pop("uids") == [os.getuid()] * 3
    assert found.pop("groups")[0] == os.getgid()
    assert found == {
        "descriptors": [0, 1, 2, 3],
        "cores": [core],
        "umask": 0o077,
        "main": CHILD,
        "words": ["--word", "x", "3"],
        "foreign": [],
        "checks": [True, True],
        "comm": "somebody",
        "cmdline": [CHILD, "--name", "somebody"],
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make others")
def test_a_child_becomes_another_user_for_good(forks):
    pid, found = forked(forks, user=(64007, 64000))
    os.waitpid(pid, 0)
    assert (found["uids"], found["groups"]) == ([64007] * 3, [64000] * 3)


def test_what_the_system_refuses_is_said_and_the_server_goes_on(forks):
    with pytest.raises(OSError, match="Invalid argument"):
        forked(forks, cores=(1023,))
    pid, _ = forked(forks)
    assert os.waitpid(pid, 0)[0] == pid
    assert not forks.notices


def test_orphans_are_adopted_only_while_a_child_is_forked(forks):
    pid, _ = forked(forks)
    os.waitpid(pid, 0)
    command = ["sh", "-c", "sleep 60 >/dev/null & echo $!"]
    orphan = int(subprocess.check_output(command))
    parent = Path(f"/proc/{orphan}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(orphan, signal.SIGKILL)
    assert int(parent) != os.getpid()


def test_a_server_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(mesh.forks, "PATIENCE_S", 0.2)
    forks = ForkServer()
    pid = forks.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ForkServerGone):
        forked(forks)
    assert not is_alive(pid)
    assert forks.notices == ["processes start slowly: there is no fork server (timed out)"]
    with pytest.raises(ForkServerGone):
        forked(forks)
    assert len(forks.notices) == 1


def test_without_a_server_a_child_is_executed(forks):
    os.kill(forks.pid, signal.SIGKILL)
    process = Process("x", "mesh.nfhost", ["--help"], secret=b"s", identity=Identity(), forks=forks)
    wait_for(lambda: process.reap() is not None)
    process.close()
    assert process.reap() == 0
    assert len(forks.notices) == 1


def test_a_killed_supervisor_takes_its_server_and_its_children_along(forks):
    script = """
import os, signal
from mesh.forks import ForkServer, Order
forks, (out, into) = ForkServer(), os.pipe()
pid = forks.fork(Order("fork_child", ("--stay",), "c"), into)
os.read(out, 1 << 16)
print(forks.pid, pid, flush=True)
signal.pause()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(word) for word in supervisor.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        supervisor.kill()
    wait_for(lambda: not any(map(is_alive, pids)))


def test_a_mesh_whose_fork_server_is_killed_goes_on_and_says_so():
    with rig() as mesh:
        nf = mesh.nf("endless", ENDLESS)
        mesh.start([{"use": nf, "ring": 64, "restart": "always"}], mesh.capture(200))
        first = mesh.running("endless")
        assert not any("fork" in notice for notice in mesh.supervisor.stats().notices)
        [server] = [int(pid) for pid in children_of(os.getpid()) if is_server(int(pid))]
        os.kill(server, signal.SIGKILL)
        os.kill(first, signal.SIGKILL)
        mesh.running("endless", after=first)
        assert any("no fork server" in notice for notice in mesh.supervisor.stats().notices)


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def is_server(pid: int) -> bool:
    return b"mesh.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
