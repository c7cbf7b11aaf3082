# SPDX-License-Identifier: Apache-2.0
"""NFs of other containers: joining a stack, being cut off from it, and finding the next one."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from joining_rig import LOOP, NF_UID, Site, probe, site, until
from patience import PATIENCE_S

from mesh.declare import Event
from mesh.declared import class_of, declaration_of
from mesh.errors import SpecError
from mesh.joining import Joining, Member, read_shown_token
from mesh.nf import NF, on
from mesh.registry import Registry

COUNTING = """
class Counting(NF):
    seen = 0
    @on("packet")
    def count(self, batch):
        self.seen += len(batch)
    def checkpoint(self):
        return self.seen
    def restore(self, state):
        self.seen = state
    def results(self):
        return {"seen": self.seen}
"""
THIEF = """
    import mmap, os, sys, json
    from pathlib import Path
    from mesh.fdclient import DescriptorClient
    run, token = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes().strip()
    client = DescriptorClient(run / "attach.sock", "thief", token)
    found = {}
    packets = client.fetch(["w0/packets"])["w0/packets"]
    def tries(name, call):
        try:
            call()
            found[name] = "done"
        except OSError as error:
            found[name] = error.strerror
    tries("map", lambda: mmap.mmap(packets.fd, packets.size, prot=mmap.PROT_WRITE))
    tries("reopen", lambda: os.open(f"/proc/self/fd/{packets.fd}", os.O_RDWR))
    tries("truncate", lambda: os.ftruncate(packets.fd, 0))
    tries("write", lambda: os.write(packets.fd, b"x"))
    tries("read", lambda: mmap.mmap(packets.fd, packets.size, prot=mmap.PROT_READ))
    try:
        client.fetch(["ring/scan/w0"])
    except Exception as error:
        found["another ring"] = str(error)
    print(json.dumps(found))
"""


class All(Event, name="all.kinds"):
    """Has a field of every kind."""

    a: int
    b: float
    c: str
    d: bytes
    e: bool
    f: IPv4Address | IPv6Address


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    """A stack that several tests use one after the other."""
    with site() as made:
        made.start()
        yield made


@pytest.fixture
def node(shared: Site) -> Iterator[Site]:
    """The stack without NFs."""
    yield shared
    shared.leave()


# ---- attaching ----------------------------------------------------------------------------------


def test_an_nf_in_namespaces_of_its_own_hears_and_says_where_it_is(node):
    node.put("scan", "flow_counter")
    assert node.phase("scan") == "away"
    joined = node.join("scan", "flow_counter")
    node.hears("scan")
    found = node.status()["attachments"]["scan"]
    assert found["uid"] == (NF_UID if os.geteuid() == 0 else os.geteuid())
    assert re.fullmatch(r"[0-9,-]+", found["cpus_allowed_list"])
    assert set(found["cores"]) == os.sched_getaffinity(0)
    assert {"w0/packets", "w0/records", "ring/scan/w0"} <= set(found["backing"])
    assert set(found["backing"].values()) <= {"huge_1g", "huge_2m", "ordinary"}
    assert (found["error"], found["restarts"], found["gone_s"]) == ("", 0, None)
    assert joined.end() == 0
    until(lambda: node.phase("scan") == "away", "its leaving")
    assert node.remote.remove_nf("scan")["nf"] == "scan"


def test_an_nf_says_how_soon_it_had_its_first_event(node, monkeypatch):
    monkeypatch.setattr(node, "_apart", [])  # in the test's network
    node.put("soon", "flow_counter")
    joined = node.join("soon", "flow_counter")
    node.hears("soon")
    row = r'^nfmesh_nf_first_event_ms\{nf="soon"\} ([1-9][0-9.]*)$'
    until(lambda: re.search(row, probe(joined.port, "/metrics")[1], re.MULTILINE), "its number")


def test_an_nf_that_is_killed_comes_back_and_hears(node):
    node.put("killed", "flow_counter")
    first = node.join("killed", "flow_counter")
    node.hears("killed")
    first.kill()
    until(lambda: node.phase("killed") == "away", "its end to be seen")
    found = node.status()
    assert found["attachments"]["killed"]["gone_s"] >= 0
    assert any("killed: left" in notice for notice in found["notices"])
    packets = found["workers"]["worker-0"]["statistics"]["packets"]
    until(
        lambda: node.status()["workers"]["worker-0"]["statistics"]["packets"] > packets,
        "packets to go on without it",
    )
    node.join("killed", "flow_counter")
    node.hears("killed")
    assert node.status()["attachments"]["killed"]["restarts"] == 1


def test_an_nf_goes_on_from_its_checkpoint_after_a_kill(node):
    use = node.code("counting", COUNTING)
    node.put("counting", "/only/there/counting.py:Counting")
    assert node.phase("counting") == "away"
    first = node.join("counting", use)
    node.hears("counting")
    before = node.events("counting")
    first.kill()
    until(lambda: node.phase("counting") == "away", "its end to be seen")
    node.join("counting", use)
    until(lambda: node.events("counting") > before, "it to go on counting")
    report = node.remote.remove_nf("counting")["report"]
    assert report["results"]["seen"] == report["events"] > before


def test_packet_memory_cannot_be_written_from_another_container(node):
    node.put("thief", "flow_counter")
    node.put("scan", "flow_counter")
    script = node.folder / "thief_script.py"
    script.write_text(textwrap.dedent(THIEF))
    words = [sys.executable, "-P", str(script), str(node.run), str(node.token("thief"))]
    thief = node.program(words, "thief")
    assert thief.process.wait(PATIENCE_S) == 0, thief.log.read_text()
    found = json.loads(thief.log.read_text())
    assert found.pop("read") == "done"
    assert "may not have 'ring/scan/w0'" in found.pop("another ring")
    if os.geteuid() != 0:
        found.pop("reopen")  # the same user: the kernel has no reason to refuse
    assert set(found) >= {"map", "truncate", "write"}
    assert "done" not in found.values(), found
    node.remote.remove_nf("thief")


def test_who_does_not_know_the_token_is_refused_and_counted(node, tmp_path):
    node.put("guarded", "flow_counter")
    wrong = node.folder / "wrong.token"
    wrong.write_text("guessed " * 4)
    wrong.chmod(0o644)
    before = node.status()["refused"].get("descriptors.token", 0)
    node.join("guarded", "flow_counter", wrong)
    until(lambda: node.status()["refused"].get("descriptors.token", 0) > before, "the count")
    assert node.phase("guarded") == "away"


def test_an_nf_waits_until_the_stack_expects_it(node):
    joined = node.join("early", "flow_counter")
    until(lambda: "no process 'early'" in joined.log.read_text(), "its first try")
    until(lambda: node.status()["refused"].get("descriptors.name"), "the count")
    node.put("early", "flow_counter")
    node.hears("early")


def test_a_second_process_of_an_nf_waits_for_the_first_to_leave(node):
    node.put("twin", "flow_counter")
    first = node.join("twin", "flow_counter")
    node.hears("twin")
    node.join("twin", "flow_counter")
    until(lambda: node.status()["refused"].get("descriptors.twice"), "the second to wait")
    assert first.end() == 0
    until(lambda: node.status()["attachments"]["twin"]["restarts"] == 1, "the second to attach")
    node.hears("twin")


def test_a_second_process_of_an_nf_is_ready_to_take_over(node):
    node.put("twin", "flow_counter")
    joining = Joining(Member.of("twin", node.run, node.token("twin"), None))
    assert joining.missing == "has not tried yet"
    node.join("twin", "flow_counter")
    node.hears("twin")
    assert joining._join() is None
    assert (joining.missing, joining.why_not) == ("", "refused: twin has attached already")
    node.token("twin").write_text("another token, and a wrong one\n")
    assert joining._join() is None
    assert joining.missing == "refused: wrong token for twin"


def test_another_token_cuts_the_nf_off_until_it_shows_that(node):
    node.put("rotated", "flow_counter")
    joined = node.join("rotated", "flow_counter")
    node.hears("rotated")
    node.token("rotated").write_text("another token of its own")
    node.put("rotated", "flow_counter")
    until(lambda: node.status()["attachments"]["rotated"]["restarts"] == 1, "it to come again")
    node.hears("rotated")
    assert joined.process.poll() is None


def test_an_nf_that_hangs_is_cut_off_and_nobody_waits_for_it():
    with site() as node:
        node.start(patience={"run": 2.0})
        use = node.code(
            "stuck",
            """
            class Stuck(NF):
                @on("packet")
                def hang(self, batch):
                    time.sleep(3600)
            """,
        )
        node.put("stuck", "/elsewhere/stuck.py:Stuck")
        node.join("stuck", use)
        until(
            lambda: any("stuck: left: no sign of life" in n for n in node.status()["notices"]),
            "it to be cut off",
        )


def sent(node: Site) -> int:
    """Returns how many frames have left."""
    ports = node.status()["workers"]["worker-0"].get("ports", ())
    return sum(port["counters"].get("tx_packets", 0) for port in ports)


def test_packets_take_the_policy_of_an_inline_nf_that_is_away():
    guard = """
        class Guard(NF):
            @on("packet", mode="inline")
            def judge(self, batch):
                pass
        """
    with site() as node:
        ports = [{**LOOP, "out": "sink"}, {"record": str(node.folder / "o.pcap"), "name": "sink"}]
        node.start(ports=ports)
        use = node.code("guard", guard)
        node.put("guard", "/there/guard.py:Guard", fail="open")
        first = node.join("guard", use)
        node.hears("guard")
        first.kill()
        until(lambda: node.phase("guard") == "away", "its end to be seen")
        before = sent(node)
        until(lambda: sent(node) > before + 100, "frames to pass without it")
        node.put("guard", "/there/guard.py:Guard", fail="closed")
        until(lambda: node.phase("guard") == "away", "the other policy")
        until(lambda: (n := sent(node)) == (time.sleep(1.2) or sent(node)) and n, "none to pass")
        node.join("guard", use)
        node.hears("guard")
        before = sent(node)
        until(lambda: sent(node) > before + 100, "frames to pass with it")


# ---- code of another image ----------------------------------------------------------------------


def test_the_stack_never_loads_the_code_of_an_nf_that_joins(node):
    use = node.code(
        "publisher",
        """
        from pathlib import Path
        class Seen(Event, name="publisher.seen"):
            flow_id: int
        class Publisher(NF):
            publishes = (Seen,)
            @on("packet")
            def one_more(self, batch):
                for each in batch:
                    self.publish(Seen(flow_id=each.flow), each)
        """,
    )
    node.put("publisher", "/not/in/the/stack.py:Publisher", subscriptions={})
    joined = node.join("publisher", use)
    node.hears("publisher")
    assert "publisher.seen" in node.status()["publishes"]
    joined.end()


def test_a_declaration_that_does_not_compose_is_said_and_the_nf_waits(node):
    use = node.code(
        "wrong",
        """
        class Wrong(NF):
            @on("http.no_such_event")
            def hear(self, batch):
                pass
        """,
    )
    node.put("wrong", "/there/wrong.py:Wrong")
    joined = node.join("wrong", use)
    found = until(
        lambda: (a := node.status()["attachments"]["wrong"]) and a["error"] and a, "the error"
    )
    assert (found["phase"], found["error_where"]) == ("undeclared", "plan")
    assert "http.no_such_event" in found["error"]
    assert joined.process.poll() is None
    # another filter of the spec mends nothing, another event does
    node.put("wrong", "/there/wrong.py:Wrong", events=["http.request"])
    until(lambda: node.phase("wrong") == "attached", "it to attach")
    assert node.status()["attachments"]["wrong"]["error"] == ""


def test_code_that_does_not_start_ends_its_container_with_the_reason_in_the_status(node):
    use = node.code(
        "failing",
        """
        class Failing(NF):
            @on("packet")
            def hear(self, batch):
                pass
            def start(self, ctx):
                raise RuntimeError("no licence")
        """,
    )
    node.put("failing", "/there/failing.py:Failing")
    joined = node.join("failing", use)
    assert joined.process.wait(PATIENCE_S) != 0
    until(lambda: node.phase("failing") == "away", "its end to be seen")
    found = node.status()["attachments"]["failing"]
    assert "no licence" in found["error"]
    assert found["error_where"] == "start"


@pytest.mark.parametrize("name", Registry.installed().nf_names())
def test_a_declared_class_composes_as_the_class_itself(name):
    cls = Registry.installed().nf(name)
    declared = declaration_of(cls)
    made = class_of(declared)
    assert declaration_of(made) == declared
    assert made.subscriptions() == cls.subscriptions()
    assert [e.event_type("x") for e in made.publishes] == [e.event_type("x") for e in cls.publishes]


def test_every_kind_of_field_can_be_declared():
    class Whole(NF):
        publishes = (All,)

        @on("packet", where="tcp", per_flow=True, name="mine")
        def hear(self, batch):
            """Hears."""

    made = class_of(declaration_of(Whole))
    assert made.publishes[0].own_fields() == All.own_fields()
    assert made.subscriptions() == Whole.subscriptions()


# ---- stacks that go and come --------------------------------------------------------------------


def mapped(pid: int) -> set[str]:
    """Returns the inodes of packet memory that a process maps."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "nfmesh:w0/packets" in line}


def test_an_nf_finds_the_next_stack_and_lets_the_old_memory_go():
    with site() as node:
        node.start()
        use = node.code("counting", COUNTING)
        node.put("counting", "/there/counting.py:Counting")
        joined = node.join("counting", use)
        node.hears("counting")
        pid, old, before = joined.pid, mapped(joined.pid), node.events("counting")
        assert len(old) == 1
        node.kill_stack()
        node.start()
        # nobody has put it in again: the stack knows its NFs of before
        node.hears("counting")
        assert joined.pid == pid
        assert len(mapped(pid)) == 1
        assert not mapped(pid) & old
        until(lambda: node.events("counting") > before, "its totals to go on")
        assert node.end_stack() == 0
        until(lambda: not mapped(pid), "the last memory to go")
        assert joined.process.poll() is None
        assert joined.end() == 0
        left = sorted(path.name for path in node.run.iterdir())
        assert left == ["desired.json", "history.json", "kept", "lock"]
        events = json.loads((node.run / "history.json").read_text())["events"]
        counts = {each["reason"]: each["count"] for each in events}
        assert counts["Attached"] == 2, "to the first stack, and to the one that followed"


def test_a_worker_that_dies_in_the_stack_leaves_nfs_attached(node):
    node.put("steady", "flow_counter")
    joined = node.join("steady", "flow_counter")
    node.hears("steady")
    memory = mapped(joined.pid)
    rows = {row["name"]: row for row in node.status()["processes"]}
    os.kill(rows["worker-0"]["pid"], 9)
    until(
        lambda: {r["name"]: r for r in node.status()["processes"]}["worker-0"]["restarts"] == 1,
        "the worker to come back",
    )
    node.hears("steady")
    assert mapped(joined.pid) == memory
    assert node.status()["attachments"]["steady"]["restarts"] == 0


def test_a_controller_that_dies_knows_again_who_has_joined(node):
    node.put("known", "flow_counter")
    node.join("known", "flow_counter")
    node.hears("known")
    rows = {row["name"]: row for row in node.status()["processes"]}
    os.kill(rows["controller"]["pid"], 9)
    until(lambda: node.phase("known") == "attached", "the next controller to know it")
    node._hang_up()
    node.hears("known")


# ---- probes -------------------------------------------------------------------------------------


def test_probes_of_a_stack_tell_how_it_is(node):
    assert probe(node.stack_port, "/healthz") == (200, "ok\n")
    assert probe(node.stack_port, "/readyz")[0] == 200
    status, text = probe(node.stack_port, "/metrics")
    assert status == 200
    assert "nfmesh_worker_packets_total" in text
    assert probe(node.stack_port, "/nothing")[0] == 404


# ---- tokens -------------------------------------------------------------------------------------


def test_a_token_is_the_text_of_its_file(tmp_path):
    path = tmp_path / "token"
    path.write_bytes(b"  0123456789abcdef \n")
    assert read_shown_token(path) == b"0123456789abcdef"


@pytest.mark.parametrize("text", [b"", b"short", b"x" * 2000])
def test_what_is_no_token_is_refused(tmp_path, text):
    path = tmp_path / "token"
    path.write_bytes(text)
    with pytest.raises(SpecError, match="16 to 1024"):
        read_shown_token(path)
    with pytest.raises(SpecError, match="No such file"):
        read_shown_token(tmp_path / "none")
