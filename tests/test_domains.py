# SPDX-License-Identifier: Apache-2.0
"""NFs of another domain: the same events, in memory without a byte that they did not ask for."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from mesh_rig import Rig, rig, wait_for
from patience import PATIENCE_S

from mesh.control import messages as m
from mesh.control.composing import compose_desired
from mesh.control.desired import Desired
from mesh.control.tool import ask
from mesh.errors import CapacityError, PlanError, SpecError
from mesh.registry import Registry
from mesh.runner import replay
from mesh.spec import Spec, json_schema, parse
from mesh.spec_plan import plan_of, uses_of
from mesh.testing import conversation, timed, write_capture

CAPTURE = Path(__file__).parent / "captures" / "office.pcap"
NFS = ("http_log", "dns_log", "flow_counter", "syn_scan")
TENANT = "tenant-b"

DIGEST = """
import hashlib

class Digest(NF):
    '''Everything that it was told, in order.'''
    def __init__(self):
        self.events, self.frames, self.n = hashlib.sha256(), hashlib.sha256(), 0

    @on("tcp.data", "udp.datagram", "flow.start")
    def hear(self, batch):
        columns = zip(batch.ts.tolist(), batch.flow.tolist(), batch.src_ip, batch.dst_port.tolist())
        for entry, row in zip(batch, columns):
            data = bytes(entry.data) if not entry.is_a("flow.start") else b""
            self.events.update(repr((entry.type, row, data)).encode())
            self.n += 1

    @on("packet")
    def see(self, batch):
        for view in batch:
            self.frames.update(bytes(view.frame))
            self.n += 1

    def results(self):
        return {"sum": self.events.hexdigest() + self.frames.hexdigest(), "n": self.n}
"""

SEARCH = """
import ctypes

class Search(NF):
    '''Looks for words in all memory of the mesh that it has mapped.'''
    @on("tcp.data", where="dst_port == 80")
    def data(self, batch):
        self.words = ["".join(word) for word in (("SUBSCRI", "BED"), ("ELSE", "WHERE"))]
        self.found = [self.count(word.encode()) for word in self.words]
        self.frames = sum(len(view.frame) + len(view.payload) - len(view.data) for view in batch)

    def count(self, word):
        n = 0
        self.maps = []
        for line in open("/proc/self/maps"):
            if "nfmesh:" in line:
                self.maps.append(line.split()[1] + " " + line.split("nfmesh:")[1].split()[0])
                first, last = (int(x, 16) for x in line.split()[0].split("-"))
                n += ctypes.string_at(first, last - first).count(word)
        return n

    def results(self):
        links = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")[:-1]]
        memory = [link for link in links if "memfd" in link]
        return {"found": self.found, "maps": self.maps, "frames": self.frames, "fds": memory}
"""


def results(mesh: Rig) -> dict[str, Any]:
    report = mesh.report()
    errors = {name: nf["errors"] for name, nf in report.items() if nf["errors"]}
    assert not errors
    return {name: nf["results"] for name, nf in report.items()}


def run(mesh: Rig, nfs: list[dict[str, Any]], capture: Path, **spec: Any) -> dict[str, Any]:
    mesh.start(nfs, capture, **spec)
    return results(mesh)


def test_results_are_those_of_the_main_domain():
    found = []
    for domain in ("default", TENANT):
        with rig() as mesh:
            nfs = [{"use": name, "domain": domain} for name in NFS]
            nfs.append({"use": mesh.nf("digest", DIGEST), "domain": domain})
            found.append(run(mesh, nfs, CAPTURE))
            if domain == TENANT:
                status = mesh.outcome.report["counters"]
                assert status.get("domain.tenant-b.records", 0) > 100
                assert "domain.tenant-b.inbox_full" not in status
    assert found[0] == found[1]
    assert found[0]["digest"]["n"] > 100


def test_domains_side_by_side_hear_the_same():
    with rig() as mesh:
        use = mesh.nf("digest", DIGEST)
        places = {"home": "default", "a": "a", "b1": TENANT, "b2": TENANT}
        nfs = [{"use": use, "name": name, "domain": domain} for name, domain in places.items()]
        small = {"memory": {"slots": 8448, "records": 16384}}
        found = run(mesh, nfs, CAPTURE, domains={TENANT: small})
    assert len({nf["sum"] for nf in found.values()}) == 1


def test_in_process_domains_make_no_difference():
    found = []
    for domain in ("default", TENANT):
        spec = parse({"nfs": [{"use": name, "domain": domain} for name in NFS]})
        report = replay(CAPTURE, uses_of(spec, Registry.installed()))
        found.append({nf.name: nf.results for nf in report.nfs})
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def searched() -> dict[str, Any]:
    """What an NF of another domain, and one at home, find in their memory."""
    with rig() as mesh:
        use = mesh.nf("search", SEARCH)
        frames = [
            *conversation([("client", b"ELSEWHERE")], server=("10.0.0.2", 9999)),
            *conversation(
                [("client", b"SUBSCRIBED"), ("server", b"ELSEWHERE")], client=("10.0.0.1", 40001)
            ),
        ]
        capture = mesh.folder / "words.pcap"
        write_capture(capture, timed([frame.data for frame in frames]))
        nfs = [{"use": use, "name": "home"}, {"use": use, "name": "away", "domain": TENANT}]
        return run(mesh, nfs, capture)


def test_no_other_byte_lies_in_its_memory(searched):
    assert searched["home"]["found"] == [1, 2]  # the search does find what is there
    assert searched["away"]["found"] == [1, 0]
    assert searched["home"]["frames"] > 0
    assert searched["away"]["frames"] == 0


def test_it_maps_and_holds_only_its_own(searched):
    parts = ("header", "packets", "records", "fields", "flows")
    assert set(searched["away"]["maps"]) - {"rw-s ckpt/away"} == {
        *(f"r--s w0/domain/{TENANT}/{part}" for part in parts),
        "rw-s ring/away/w0",
    }
    assert not [fd for fd in searched["away"]["fds"] if "w0/" in fd.replace("ring/away/w0", "")]
    assert "r--s w0/packets" in searched["home"]["maps"]


def test_a_worker_begun_again_takes_over_the_inbox():
    body = """
    class Slow(NF):
        def __init__(self):
            self.n = 0
        @on("flow.end")
        def end(self, batch):
            if self.n > 1000:
                stand_still()
            self.n += len(batch)
            time.sleep(0.01)
        def results(self):
            return {"n": self.n}
    """
    with rig() as mesh:
        use = mesh.nf("slow", body)
        nfs = [{"use": use, "ring": 64}, {"use": use, "name": "away", "domain": TENANT, "ring": 64}]
        mesh.start(nfs, mesh.capture(3000))
        mesh.running("away")
        worker = mesh.running("worker-0")
        wait_for(lambda: _maps(worker, f"w0/domain/{TENANT}/records"))
        os.kill(worker, signal.SIGKILL)
        mesh.running("worker-0", after=worker)
        found = results(mesh)
    assert found == {"slow": {"n": 3000}, "away": {"n": 3000}}


def test_a_domain_comes_and_goes_while_packets_flow():
    body = """
    class Count(NF):
        def __init__(self, pause: float = 0.0):
            self.n, self.pause = 0, pause
        @on("packet")
        def see(self, batch):
            self.n += sum(1 for view in batch if len(view.frame) > 0)
            time.sleep(self.n * self.pause)
        def results(self):
            return {"n": self.n}
    """
    with rig() as mesh:
        use = mesh.nf("count", body)
        # the worker is held back, and the more the longer it takes, so that there is time
        mesh.start([{"use": use, "ring": 64, "config": {"pause": 1e-5}}], mesh.capture(5000))
        mesh.running("count")
        worker, run = mesh.running("worker-0"), mesh.supervisor.folder.path
        wait_for(lambda: ask(run, m.Status(), PATIENCE_S)["state"] == "running")
        for name in ("first", "second"):
            entry = {"use": use, "name": name, "domain": TENANT}
            added = ask(run, m.NfAdd(entry=entry), PATIENCE_S)
            assert _maps(worker, f"w0/domain/{TENANT}/packets")
            removed = ask(run, m.NfRemove(nf=name), PATIENCE_S)
            seen = removed["report"]["results"]["n"]
            assert seen == removed["effective_from"] - added["effective_from"]
            wait_for(lambda: not _maps(worker, f"w0/domain/{TENANT}/packets"))
        mesh.supervisor.stop()
        assert results(mesh)["count"]["n"] > 0


def _maps(pid: int, name: str) -> bool:
    try:
        return re.search(re.escape(name), Path(f"/proc/{pid}/maps").read_text()) is not None
    except FileNotFoundError:
        return False


# ---- specs --------------------------------------------------------------------------------------

CHAIN = """
class Said(Event, name="talker.said"):
    '''It said something.'''
    word: str

class Talker(NF):
    publishes = (Said,)
    @on("flow.end")
    def end(self, batch):
        for flow in batch:
            self.publish(Said(word="hi"), about=flow)

class Listener(NF):
    def __init__(self):
        self.n = 0
    @on("talker.said")
    def said(self, batch):
        self.n += len(batch)
    def results(self):
        return {"n": self.n}
"""


def chain(mesh: Rig, **talker: Any) -> list[dict[str, Any]]:
    path = mesh.nf("chain", CHAIN)
    listener = {"use": f"{path}:Listener", "domain": TENANT}
    return [{"use": f"{path}:Talker", **talker}, listener]


def test_events_cross_domains_only_when_their_publisher_shares_them():
    with rig() as mesh:
        with pytest.raises(PlanError, match=r"share: \[tenant-b\]") as error:
            plan_of(parse({"nfs": chain(mesh)}), Registry.installed())
        assert "nfs[1]" in str(error.value)
        for fine in ({"share": [TENANT]}, {"domain": TENANT}):
            plan_of(parse({"nfs": chain(mesh, **fine)}), Registry.installed())
        found = run(mesh, chain(mesh, share=[TENANT]), mesh.capture(10))
    assert found["listener"] == {"n": 10}


@pytest.mark.parametrize(
    ("domains", "path", "text"),
    [
        ({"default": {}}, "domains.default", "worker"),
        ({"t": {"memory": {"records": 5000}}}, "domains.t.memory.records", "8192"),
        ({"t": {"memory": {"slots": 1}}}, "domains.t.memory.slots", "256"),
        ({"t": {"memory": {"slot": 512}}}, "domains.t.memory", "slots"),
        ({"no good": {}}, "domains", "pattern"),
    ],
)
def test_wrong_domains_are_refused_with_their_place(domains, path, text):
    with pytest.raises(SpecError) as error:
        plan_of(parse({"nfs": [{"use": "syn_scan"}], "domains": domains}), Registry.installed())
    assert path in str(error.value)
    assert text in str(error.value)


def test_an_inbox_that_is_too_small_is_refused():
    spec = {
        "nfs": [{"use": "payload_scan", "domain": "t", "config": {"patterns": "x"}}],
        "ports": [{"pcap": str(CAPTURE)}],
        "domains": {"t": {"memory": {"slots": 4096}}},
    }
    with pytest.raises(CapacityError, match=r"domains\.t\.memory\.slots"):
        compose_desired(Desired(1, spec), Registry.installed())


def test_the_schema_knows_domains():
    assert "share" in json_schema()["$defs"]["NFSpec"]["properties"]
    assert "records" in json_schema()["$defs"]["InboxSpec"]["properties"]
    assert Spec.model_fields["domains"].description
