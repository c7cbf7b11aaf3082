"""What the kernel refuses to an NF that means harm."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from mesh_rig import Rig, rig, wait_for

HOSTILE = """
import ctypes, fcntl, mmap, sys

def lazy_imports():
    import sqlite3, wave, email.mime.audio, xml.sax.saxutils, numpy.polynomial.hermite
    import importlib.metadata
    assert "http_log" in importlib.metadata.entry_points(group="mesh.nfs").names

long = ctypes.c_long

def tried(what):
    '''Returns "done", or the name of the error that refused.'''
    try:
        what()
        return "done"
    except (OSError, ValueError) as error:
        return type(error).__name__

def link(n):
    try:
        return os.readlink(f"/proc/self/fd/{n}")
    except OSError:
        return ""

class Hostile(NF):
    '''Keeps a descriptor of the packets and tries everything with it.'''
    def __init__(self):
        import mesh.attached
        before = mesh.attached.attach_memory
        def keeping(handles):
            self.fd = os.dup(next(h.fd for h in handles if h.name.endswith("/packets")))
            return before(handles)
        mesh.attached.attach_memory = keeping

    @on("flow.end")
    def end(self, batch): ...

    def results(self):
        fd, libc = self.fd, ctypes.CDLL(None, use_errno=True)
        def libc_call(name, *arguments):
            if getattr(libc, name)(*arguments) == -1:
                raise OSError(ctypes.get_errno(), name)
        fake = os.memfd_create("mine")
        status = dict(
            line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines()
        )
        return {
            "uid": os.getuid(),
            "groups": os.getgroups(),
            "capabilities": status["CapEff"] + status["CapPrm"] + status["CapAmb"],
            "no_new_privs": status["NoNewPrivs"],
            "map_writable": tried(lambda: mmap.mmap(fd, 4096)),
            "map_shared_read": tried(lambda: mmap.mmap(fd, 4096, prot=mmap.PROT_READ)),
            "protect": tried(lambda: libc_call("mprotect", self.address(), 4096, 3)),
            "write": tried(lambda: os.pwrite(fd, b"x", 0)),
            "truncate": tried(lambda: os.ftruncate(fd, 0)),
            "reopen": tried(lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR)),
            "chmod": tried(lambda: os.fchmod(fd, 0o666)),
            "punch": tried(lambda: libc_call("fallocate", fd, 3, long(0), long(4096))),
            "unseal": tried(lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)),
            "trace_supervisor": tried(
                lambda: libc_call("ptrace", 0x4206, os.getppid(), None, None)
            ),
            "memory_of_supervisor": tried(lambda: open(f"/proc/{os.getppid()}/mem", "rb").close()),
            "descriptors_of_supervisor": tried(
                lambda: [os.open(f"/proc/{os.getppid()}/fd/{n}", os.O_RDONLY) for n in (1, 2, 3)]
            ),
            "become_root": tried(lambda: os.setuid(0)) if os.getuid() else "PermissionError",
            "imported": tried(lazy_imports),
            "walk_home": tried(lambda: os.listdir("/root")),
            "write_code": tried(
                lambda: [open(f"{p}/x.py", "w") for p in sys.path if os.path.isdir(p)]
            ),
            "open_descriptors": [path for n in range(256) if (path := link(n))],
        }

    def address(self):
        for line in open("/proc/self/maps"):
            if "/packets" in line:
                return ctypes.c_void_p(int(line.split("-")[0], 16))
        raise ValueError("not mapped")
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Rig]:
    with rig() as made:
        made.start([{"use": made.nf("hostile", HOSTILE)}], made.capture(20))
        made.report()
        yield made


@pytest.fixture(scope="module")
def found(mesh: Rig) -> dict[str, object]:
    report = mesh.report()["hostile"]
    assert not report["errors"], report["errors"]
    return dict(report["results"])


def test_reading_is_allowed(found):
    assert found["map_shared_read"] == "done"


@pytest.mark.parametrize("attempt", ["map_writable", "protect", "write", "truncate", "punch"])
def test_packets_cannot_be_written_through_the_descriptor(found, attempt):
    assert found[attempt] != "done"


@pytest.mark.parametrize("attempt", ["reopen", "chmod"])
def test_packets_cannot_be_opened_again_for_writing(mesh, found, attempt):
    if os.geteuid() != 0:
        notices = mesh.supervisor.stats().notices
        assert any("not to open them again" in notice for notice in notices)
        pytest.skip("as one user the kernel refuses the mapping only, and the status says so")
    assert found[attempt] == "PermissionError"


@pytest.mark.parametrize(
    "attempt", ["trace_supervisor", "memory_of_supervisor", "descriptors_of_supervisor"]
)
def test_the_supervisor_is_out_of_reach(found, attempt):
    assert found[attempt] == "PermissionError"


def test_an_nf_has_no_capability_and_gains_none(found):
    assert set(found["capabilities"]) == {"0"}
    assert found["no_new_privs"] == "1"
    assert found["become_root"] == "PermissionError"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: NFs of another user")
def test_an_nf_is_a_user_of_its_own_in_no_group_but_its_own(mesh, found):
    users = mesh.settings.users
    assert found["uid"] == users.first
    assert set(found["groups"]) <= {users.group}
    assert not mesh.supervisor.settings.users.notice


def test_an_nf_can_still_import_what_is_installed(found):
    assert found["imported"] == "done"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: NFs of another user")
def test_but_it_walks_nowhere_else(found):
    assert found["walk_home"] in ("PermissionError", "FileNotFoundError")
    assert found["write_code"] == "PermissionError"


def test_an_nf_has_only_its_own_descriptors(found):
    links = found["open_descriptors"]
    memory = [link for link in links if "memfd" in link]
    assert memory
    own = ("nfmesh:w0/packets", "nfmesh:ckpt/hostile", "mine")
    assert not [link for link in memory if not any(name in link for name in own)]
    assert not [
        link for link in links if link.endswith((".key", "lock", ".json", ".pcap", ".sock"))
    ]


def test_maps_show_the_packets_mapped_read_only():
    body = """
    class Slow(NF):
        @on("flow.end")
        def end(self, batch):
            stand_still()
    """
    with rig() as mesh:
        mesh.start([{"use": mesh.nf("slow", body), "ring": 64}], mesh.capture(500))
        pid = mesh.running("slow")
        maps: dict[str, str] = {}

        def mapped() -> bool:
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                if match := re.search(r"nfmesh:(w0/\w+|ring/\w+/w0)", line):
                    maps[match[1]] = line.split()[1]
            return len(maps) == 6

        wait_for(mapped)
        assert maps == {
            **dict.fromkeys(
                ["w0/header", "w0/packets", "w0/records", "w0/fields", "w0/flows"], "r--s"
            ),
            "ring/slow/w0": "rw-s",
        }
