# SPDX-License-Identifier: Apache-2.0
"""Cores: what the kernel says there is, who gets which, and what is known of it after a restart."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mesh_rig import rig, wait_for
from patience import PATIENCE_S

from mesh.cgroups import find_cpusets
from mesh.control import messages as m
from mesh.control.tool import ask
from mesh.cores import CoreRequest, Room, allocate
from mesh.corestate import CoreState
from mesh.errors import SpecError
from mesh.topology import Topology, cpu_list, cpu_text

STANDS = """
class Stands(NF):
    @on("flow.end")
    def end(self, batch):
        stand_still()
"""
SLOW = """
class Slow(NF):
    "Holds the worker back, and the more the longer it takes, so that a test has time."
    n = 0
    @on("flow.end")
    def end(self, batch):
        self.n += len(batch)
        time.sleep(self.n * 1e-3)
"""


def sys_tree(folder: Path, sockets: int, cores: int, threads: int, **more: str) -> Path:
    """Writes a sysfs as kernels have it: siblings are numbered behind all first threads."""
    n = sockets * cores
    cpu_folder = folder / "devices/system/cpu"
    nodes: dict[int, list[int]] = {}
    for thread in range(threads):
        for core in range(n):
            cpu, socket = thread * n + core, core // cores
            siblings = sorted(t * n + core for t in range(threads))
            place = cpu_folder / f"cpu{cpu}/topology"
            place.mkdir(parents=True)
            (place / "physical_package_id").write_text(f"{socket}\n")
            (place / "core_cpus_list").write_text(f"{cpu_text(siblings)}\n")
            nodes.setdefault(socket, []).append(cpu)
    for node, cpus in nodes.items():
        place = folder / f"devices/system/node/node{node}"
        place.mkdir(parents=True)
        (place / "cpulist").write_text(f"{cpu_text(cpus)}\n")
    (cpu_folder / "online").write_text(more.get("online", f"0-{n * threads - 1}\n"))
    return folder


@pytest.fixture
def two_sockets(tmp_path):
    """Two sockets of 4 cores with 2 threads each: 0-3,8-11 and 4-7,12-15."""
    return Topology.read(sys_tree(tmp_path, 2, 4, 2), range(16))


def ask_for(count, name="nf"):
    return CoreRequest(name, count=count)


def given_to(topology, *counts, **room):
    """Returns what each of several requests gets."""
    requests = [ask_for(count, f"nf{i}") for i, count in enumerate(counts)]
    found = allocate(requests, Room(topology, **room))
    return [found.cores[request.name] for request in requests]


# ---- what there is ------------------------------------------------------------------------------


def test_sockets_cores_and_threads_are_read(two_sockets):
    assert len(two_sockets.cpus) == 16
    assert two_sockets.cpus[9].core == two_sockets.cpus[1].core == (0, 1)
    assert (two_sockets.cpus[3].node, two_sockets.cpus[12].node) == (0, 1)


def test_only_what_the_cpuset_leaves_is_there(tmp_path):
    topology = Topology.read(sys_tree(tmp_path, 2, 4, 2), {1, 2, 9})
    assert sorted(topology.cpus) == [1, 2, 9]
    assert given_to(topology, 2) == [(1, 9)]  # two threads of one core, not two halves


def test_cpus_that_are_offline_are_not_there(tmp_path):
    topology = Topology.read(sys_tree(tmp_path, 1, 4, 1, online="0,2-3\n"), range(4))
    assert sorted(topology.cpus) == [0, 2, 3]


@pytest.mark.parametrize("text", ["", "no list", "3-1", "99999999"])
def test_a_kernel_that_tells_nothing_has_cpus_of_a_core_each(tmp_path, text):
    place = tmp_path / "devices/system/cpu/cpu0/topology"
    place.mkdir(parents=True)
    (place / "core_cpus_list").write_text(text)
    (place / "physical_package_id").write_text("-1")
    topology = Topology.read(tmp_path, {0, 1})
    assert [cpu.core for cpu in topology.cpus.values()] == [(0, 0), (0, 1)]


def test_this_host_is_read():
    assert set(Topology.read().cpus) == os.sched_getaffinity(0)


@given(st.sets(st.integers(0, 300)))
def test_lists_of_cpus_are_read_as_they_are_written(cpus):
    assert cpu_list(cpu_text(cpus)) == cpus


# ---- who gets what ------------------------------------------------------------------------------


def test_whole_cores_come_first(two_sockets):
    assert given_to(two_sockets, 2) == [(0, 8)]
    assert given_to(two_sockets, 3) == [(0, 1, 8)]


def test_half_a_core_is_filled_before_another_is_broken(two_sockets):
    assert given_to(two_sockets, 1, 1) == [(0,), (8,)]


def test_who_fits_one_node_gets_one(two_sockets):
    first, second = given_to(two_sockets, 6, 6)
    assert {two_sockets.cpus[cpu].node for cpu in first} == {0}
    assert {two_sockets.cpus[cpu].node for cpu in second} == {1}


def test_the_fuller_node_is_filled_first(two_sockets):
    assert given_to(two_sockets, 2, taken={0, 1, 2, 8, 9, 10, 4, 12}) == [(3, 11)]


def test_who_fits_no_node_gets_as_few_as_there_can_be(two_sockets):
    [found] = given_to(two_sockets, 10)
    assert len(found) == 10
    assert {0, 1, 2, 3, 8, 9, 10, 11} <= set(found)


def test_too_few_are_refused_in_the_words_of_schedulers(two_sockets):
    with pytest.raises(SpecError, match="Insufficient cpu: asked 2, free 1") as error:
        given_to(Topology.flat([0, 1]), 2, taken=[0])
    assert error.value.path == "nf0.cores"
    with pytest.raises(SpecError, match="asked 2, free 1; 0 reserved"):
        given_to(Topology.flat([0, 1]), 2, reserved=[0])


def test_those_who_name_cores_come_first_and_may_name_reserved_ones(two_sockets):
    named = CoreRequest("named", (0, 8))
    room = Room(two_sockets, reserved={0, 8})
    found = allocate([ask_for(2), named], room)
    assert found.cores == {"named": (0, 8), "nf": (1, 9)}
    assert found.own == {"named", "nf"}
    assert found.shared == tuple(cpu for cpu in range(16) if cpu not in (0, 1, 8, 9))


def test_after_a_restart_each_has_what_it_had(two_sockets):
    room = Room(two_sockets, before={"b": (2, 10), "c": (5,), "gone": (0, 8)})
    found = allocate([ask_for(2, "a"), ask_for(2, "b"), ask_for(2, "c")], room)
    assert found.cores["b"] == (2, 10)
    assert len(found.cores["c"]) == 2


COUNTS = st.lists(st.integers(1, 9), max_size=8)
SETS = st.sets(st.integers(0, 23), max_size=12)


@settings(max_examples=300, deadline=None)
@given(COUNTS, SETS, SETS, st.integers(1, 3), st.integers(1, 2), st.data())
def test_no_core_is_given_twice_and_reserved_ones_never(counts, taken, reserved, nodes, smt, data):
    n = 24 // smt
    cpus = {
        cpu: (cpu % n // (n // nodes) if nodes else 0, cpu % n)
        for cpu in data.draw(st.sets(st.integers(0, 23), min_size=1))
    }
    from mesh.topology import Cpu

    topology = Topology({cpu: Cpu(cpu, core, core[0]) for cpu, core in sorted(cpus.items())})
    requests = [ask_for(count, f"nf{i}") for i, count in enumerate(counts)]
    free = set(cpus) - taken - reserved
    try:
        found = allocate(requests, Room(topology, taken & set(cpus), reserved))
    except SpecError:
        assert sum(counts) > len(free)
        return
    given_away = [cpu for request in requests for cpu in found.cores[request.name]]
    assert len(given_away) == len(set(given_away)) == sum(counts)
    assert set(given_away) <= free
    assert not set(found.shared) & set(given_away)


# ---- the file -----------------------------------------------------------------------------------


def test_what_was_given_is_known_to_the_next_of_its_name_and_to_others(tmp_path):
    CoreState(tmp_path, "a").save({"nf": (2, 3)}, {"a"})
    assert CoreState(tmp_path, "a").before() == {"nf": (2, 3)}
    other = CoreState(tmp_path, "b")
    assert other.before() == {}
    assert other.taken({"a", "b"}) == {2, 3}
    assert other.taken({"b"}) == set()  # nobody keeps cores free for a mesh that is gone
    other.save({"x": (1,)}, {"a", "b"})
    assert CoreState(tmp_path, "a").before() == {"nf": (2, 3)}
    assert (tmp_path / "cores.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["cut", "changed", "nonsense", "another version", "no cores"])
def test_a_damaged_file_is_none_and_is_said(tmp_path, damage):
    CoreState(tmp_path, "a").save({"nf": (2, 3)}, {"a"})
    path = tmp_path / "cores.json"
    text = path.read_text()
    path.write_text(
        {
            "cut": text[:20],
            "changed": text.replace("2, 3", "0, 1"),
            "nonsense": "[]",
            "another version": text.replace('"version": 1', '"version": 9'),
            "no cores": json.dumps({"version": 1, "meshes": 3, "checksum": 0}),
        }[damage]
    )
    state = CoreState(tmp_path, "a")
    assert state.before() == {}
    assert "given away anew" in state.notices[0]
    state.save({"nf": (1,)}, {"a"})
    assert CoreState(tmp_path, "a").before() == {"nf": (1,)}


# ---- cpusets ------------------------------------------------------------------------------------


def proc_of(folder, mounts, groups):
    """Writes what the kernel says of this process' cgroups."""
    (folder / "mountinfo").write_text(mounts)
    (folder / "cgroup").write_text(groups)
    return folder


def test_the_hierarchy_of_version_1_is_used(tmp_path):
    tree = tmp_path / "cpuset"
    (tree / "own").mkdir(parents=True)
    (tree / "own/cpuset.cpus").write_text("0-3")
    (tree / "own/cpuset.mems").write_text("0")
    mounts = f"31 24 0:27 / {tree} rw - cgroup cgroup rw,cpuset\n"
    cpusets = find_cpusets("edge", proc_of(tmp_path, mounts, "3:cpuset:/own\n0::/\n"))
    assert cpusets.tier == "cgroup v1"
    assert cpusets.hold("nf", 4711, [2, 3])
    group = tree / "own/nfmesh-edge-nf"
    assert (group / "cpuset.cpus").read_text() == "2-3"
    assert (group / "cpuset.mems").read_text() == "0"
    assert (group / "cgroup.procs").read_text() == "4711"


def test_a_tree_of_version_2_that_nobody_has_delegated_is_left_alone(tmp_path):
    tree = tmp_path / "unified"
    (tree / "own").mkdir(parents=True)
    (tree / "own/cgroup.controllers").write_text("cpuset cpu\n")
    mounts = f"31 24 0:27 / {tree} rw - cgroup2 cgroup2 rw\n"
    cpusets = find_cpusets("edge", proc_of(tmp_path, mounts, "0::/own\n"))
    assert cpusets.tier == "affinity"
    assert [path.name for path in (tree / "own").iterdir()] == ["cgroup.controllers"]


def test_one_that_was_delegated_is_used(tmp_path, monkeypatch):
    tree = tmp_path / "unified"
    own = tree / "own"
    own.mkdir(parents=True)
    (own / "cgroup.controllers").write_text("cpuset cpu\n")
    (own / "cgroup.procs").write_text("17\n")
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"1")
    mounts = f"31 24 0:27 / {tree} rw - cgroup2 cgroup2 rw\n"
    cpusets = find_cpusets("edge", proc_of(tmp_path, mounts, "0::/own\n"))
    assert cpusets.tier == "cgroup v2"
    assert (own / "supervisor/cgroup.procs").read_text() == "17"
    assert (own / "cgroup.subtree_control").read_text() == "+cpuset"
    assert cpusets.hold("nf", 4711, [1])
    assert (own / "nfmesh-edge-nf/cpuset.cpus").read_text() == "1"


@pytest.mark.parametrize("groups", ["", "3:cpuset:/gone\n", "nonsense\n"])
def test_without_cgroups_there_is_affinity(tmp_path, groups):
    mounts = "31 24 0:27 / /nowhere rw - cgroup cgroup rw,cpuset\nshort\n"
    cpusets = find_cpusets("edge", proc_of(tmp_path, mounts, groups))
    assert cpusets.tier == "affinity"
    assert not cpusets.hold("nf", 1, [0])
    cpusets.close()


# ---- whole meshes -------------------------------------------------------------------------------


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_an_nf_has_its_cores_alone_and_more_are_refused():
    with rig() as mesh:
        use = mesh.nf("slow", SLOW)
        nfs = [{"use": use, "cores": 1, "ring": 64}, {"use": use, "name": "other", "ring": 64}]
        mesh.start(nfs, mesh.capture(5000))
        pid = mesh.running("slow")
        [own] = os.sched_getaffinity(pid)
        tier = mesh.supervisor.stats().pinning
        assert tier in ("cgroup v1", "cgroup v2", "affinity")
        if tier == "cgroup v1":
            groups = Path(f"/proc/{pid}/cgroup").read_text()
            assert re.search(r"/nfmesh-t-[0-9a-f]{8}-slow$", groups, re.MULTILINE)
        others = {mesh.running("worker-0"), mesh.running("other")}
        others.add(mesh.child("controller").process.pid)
        for other in others:
            for task in Path(f"/proc/{other}/task").iterdir():
                assert own not in os.sched_getaffinity(int(task.name))
        run = mesh.supervisor.folder.path
        n = len(os.sched_getaffinity(0))
        entry = {"use": "dns_log", "cores": n}
        with pytest.raises(SpecError, match=f"Insufficient cpu: asked {n}, free {n - 1}"):
            ask(run, m.NfAdd(entry=entry), PATIENCE_S)
        assert CoreState(run.parent, "t").before() == {"slow": (own,)}
        ask(run, m.NfRemove(nf="slow"), PATIENCE_S)
        wait_for(lambda: "slow" not in mesh.supervisor.children)
        wait_for(lambda: own in os.sched_getaffinity(mesh.running("worker-0")))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_mesh_of_the_same_name_in_another_folder_moves_nobody():
    first, second, *_ = sorted(os.sched_getaffinity(0))
    with rig() as one, rig() as other:
        pids = []
        for mesh, core in ((one, first), (other, second)):
            use = mesh.nf("stands", STANDS)
            mesh.start([{"use": use, "cores": [core], "ring": 64}], mesh.capture(100))
            pids.append(mesh.running("stands"))
        assert [os.sched_getaffinity(pid) for pid in pids] == [{first}, {second}]
