"""NFs as processes: what they do, how they fail, and that a killed one loses nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from mesh_rig import Rig, rig, wait_for
from patience import PATIENCE_S

from mesh.child import Patience
from mesh.runner import replay
from mesh.supervisor import SupervisorSettings

COUNTER = """
class Counter(NF):
    '''Counts bytes and flows, and keeps its state.'''
    def __init__(self, slow_s: float = 0.0):
        self.bytes, self.flows, self.slow_s = 0, 0, slow_s
    @on("tcp.data")
    def data(self, batch):
        self.bytes += sum(map(len, batch.data))
        time.sleep(self.slow_s)
    @on("flow.end")
    def end(self, batch):
        if self.flows > 2000:
            stand_still()
        self.flows += len(batch)
    def checkpoint(self):
        return [self.bytes, self.flows]
    def restore(self, state):
        self.bytes, self.flows = state
    def results(self):
        return {"bytes": self.bytes, "flows": self.flows}
"""


@pytest.fixture
def mesh() -> Iterator[Rig]:
    with rig() as made:
        yield made


def test_totals_are_those_of_the_engine(mesh):
    capture = mesh.capture(300)
    use = mesh.nf("counter", COUNTER)
    mesh.start([{"use": use}, {"use": "http_log"}, {"use": "flow_counter"}], capture)
    found = mesh.report()
    inside = {nf.name: nf for nf in replay(capture, [use, "http_log", "flow_counter"]).nfs}
    for name, report in inside.items():
        expected = report.to_json()
        for key in ("events", "published", "errors", "failures", "disabled"):
            assert found[name][key] == expected[key], (name, key)
    assert found["counter"]["results"] == inside["counter"].results
    assert found["http_log"]["results"]["requests"] == inside["http_log"].results["requests"]


def test_a_native_nf_runs_in_its_own_process(mesh):
    capture = mesh.capture(50)
    mesh.start([{"use": "payload_scan"}], capture)
    found = mesh.report()["payload_scan"]
    inside = replay(capture, ["payload_scan"])["payload_scan"]
    assert found["failures"] == 0
    assert found["results"] == dict(inside.results)


def test_a_killed_nf_goes_on_from_its_ring_and_its_totals_are_exact(mesh):
    capture = mesh.capture(3000)
    use = mesh.nf("counter", COUNTER)
    nf = {"use": use, "config": {"slow_s": 0.01}, "restart": "always", "ring": 256}
    mesh.start([nf, {"use": "flow_counter"}], capture)
    pid = mesh.running("counter")
    kills = 3
    for n in range(kills):
        wait_for(lambda n=n: mesh.ring("ring/counter/w0").tail > 500 * n)
        os.kill(pid, signal.SIGKILL)
        pid = mesh.running("counter", after=pid)
    found = mesh.report()
    inside = replay(capture, [use, "flow_counter"])
    assert mesh.outcome.restarts["counter"] == kills
    assert mesh.outcome.report["statistics"]["slots_used"] == 0
    assert found["counter"]["results"] == dict(inside["counter"].results)
    assert found["counter"]["events"] == inside["counter"].events
    assert found["flow_counter"]["results"] == {
        str(key): list(value) for key, value in inside["flow_counter"].results.items()
    }


def test_an_nf_without_a_checkpoint_begins_anew_but_loses_no_entry(mesh):
    body = """
    class Seen(NF):
        flows = 0
        @on("flow.end")
        def end(self, batch):
            with open(self.path, "a") as file:
                file.writelines(f"{port} {ip}\\n" for port, ip in zip(batch.src_port, batch.src_ip))
            stand_still()
        def start(self, ctx):
            self.path = ctx.out / "seen.txt"
    """
    out = mesh.folder / "out"
    out.mkdir()
    out.chmod(0o777)
    mesh.start([{"use": mesh.nf("seen", body), "ring": 64}], mesh.capture(500), out=str(out))
    pid = mesh.running("seen")
    wait_for((out / "seen.txt").exists)
    os.kill(pid, signal.SIGKILL)
    mesh.running("seen", after=pid)
    mesh.report()
    lines = (out / "seen.txt").read_text().splitlines()
    assert len(set(lines)) == 500
    assert 500 <= len(lines) <= 500 + 64


def test_an_exception_in_a_handler_is_counted_and_the_others_go_on(mesh):
    body = """
    class Bad(NF):
        @on("flow.end")
        def end(self, batch):
            raise ValueError("no")
    """
    mesh.start([{"use": mesh.nf("bad", body)}, {"use": "flow_counter"}], mesh.capture(50))
    found = mesh.report()
    assert found["bad"]["failures"] >= 1
    assert "ValueError: no" in found["bad"]["errors"][0]
    assert found["flow_counter"]["events"] > 50
    assert not mesh.outcome.restarts


@pytest.mark.parametrize("restart", ["always", "on-failure"])
def test_an_entry_that_kills_the_process_again_and_again_is_left_out(mesh, restart):
    body = """
    class Poisoned(NF):
        seen = 0
        @on("http.request")
        def asked(self, batch):
            for view in batch:
                if view.target == "/70":
                    os.abort()
            self.seen += len(batch)
        def checkpoint(self):
            return self.seen
        def restore(self, state):
            self.seen = state
        def results(self):
            return {"seen": self.seen}
    """
    nfs = [{"use": mesh.nf("poisoned", body), "restart": restart}, {"use": "http_log"}]
    mesh.start(nfs, mesh.capture(100))
    found = mesh.report()
    assert found["poisoned"]["results"] == {"seen": 99}
    assert found["http_log"]["results"]["requests"] == 100
    assert 3 <= mesh.outcome.restarts["poisoned"] <= 3 + 3  # a run, parts of it, the entry alone


def test_an_nf_that_dies_at_every_entry_is_given_up_and_the_others_go_on(mesh):
    body = """
    import ctypes
    class Writer(NF):
        @on("flow.end")
        def end(self, batch):
            for line in open("/proc/self/maps"):
                if "/packets" in line:
                    ctypes.memset(int(line.split("-")[0], 16), 0, 8)
    """
    nfs = [{"use": mesh.nf("writer", body), "ring": 64}, {"use": "flow_counter"}]
    mesh.start(nfs, mesh.capture(300))
    found = mesh.report()
    last = mesh.supervisor.children["writer"].last_exit
    assert last == "given up after it died at 5 entries: killed by SIGSEGV"
    assert found["writer"]["errors"] == [f"NF 'writer' failed in exit: {last}"]
    assert found["flow_counter"]["events"] > 300
    assert mesh.outcome.report["packets"] == 3000


def test_an_nf_that_is_never_restarted_does_not_hold_up_the_others(mesh):
    body = """
    class Gone(NF):
        @on("flow.end")
        def end(self, batch):
            os._exit(3)
    """
    nfs = [{"use": mesh.nf("gone", body), "restart": "never", "ring": 64}, {"use": "flow_counter"}]
    mesh.start(nfs, mesh.capture(1000))
    found = mesh.report()
    assert found["flow_counter"]["events"] > 1000
    assert "exit status 3" in mesh.supervisor.children["gone"].last_exit


def test_an_nf_that_hangs_is_killed_and_started_again():
    body = """
    class Hangs(NF):
        @on("flow.end")
        def end(self, batch):
            if not self.marker.exists():
                self.marker.touch()
                time.sleep(3600)
        def start(self, ctx):
            self.marker = ctx.out / "hung"
    """
    settings = SupervisorSettings(patience=Patience(PATIENCE_S, 3.0, PATIENCE_S))
    with rig(settings) as mesh:
        out = mesh.folder / "out"
        out.mkdir()
        out.chmod(0o777)
        nfs = [{"use": mesh.nf("hangs", body)}, {"use": "flow_counter"}]
        mesh.start(nfs, mesh.capture(50), out=str(out))
        mesh.report()
        assert mesh.outcome.restarts == {"hangs": 1}


STOPPED = """
class Stopped(NF):
    def start(self, ctx):
        (ctx.out / "started").touch()
        self.file = ctx.out / "stopped"
    @on("flow.end")
    def end(self, batch): ...
    def stop(self):
        self.file.touch()
"""


@pytest.mark.parametrize("place", ["__init__", "start"])
def test_an_nf_that_does_not_start_ends_the_run_before_it_begins(mesh, place):
    signature = "self, ctx" if place == "start" else "self"
    body = f"""
    class Bad(NF):
        def {place}({signature}):
            open("/no/such/file")
        @on("flow.end")
        def end(self, batch): ...
    """
    out = mesh.folder / "out"
    out.mkdir()
    out.chmod(0o777)
    use = mesh.nf("bad", body)
    nfs = [{"use": use}, {"use": mesh.nf("stopped", STOPPED)}]
    mesh.start(nfs, mesh.capture(20), out=str(out))
    outcome = mesh.wait()
    assert outcome.start_failed == ("bad",)
    assert outcome.report["packets"] == 0
    [text] = outcome.report["nfs"][0]["errors"]
    assert text == (
        f"NF 'bad' failed in {place}: FileNotFoundError: [Errno 2] No such file or directory: "
        f"'/no/such/file' ({use}:6)"
    )
    assert (out / "stopped").exists() == (out / "started").exists()
    assert not outcome.restarts


@pytest.mark.parametrize(("restart", "starts"), [("never", 1), ("always", 3)])
def test_a_module_that_kills_its_process_at_import_ends_the_run_in_words(mesh, restart, starts):
    use = mesh.nf(
        "dies",
        """
    import sys
    if "mesh.nfhost" in sys.modules["__main__"].__spec__.name:
        os._exit(9)
    class Dies(NF):
        @on("flow.end")
        def end(self, batch): ...
    """,
    )
    nfs = [{"use": use, "restart": restart}, {"use": "flow_counter"}]
    mesh.start(nfs, mesh.capture(20))
    outcome = mesh.wait()
    assert outcome.start_failed == ("dies",)
    assert outcome.report["packets"] == 0
    assert "exit status 9" in outcome.report["nfs"][0]["errors"][0]
    assert mesh.supervisor.children["dies"].starts == starts


def test_an_nf_that_does_not_come_up_again_is_given_up_and_the_others_go_on(mesh):
    body = """
    class Once(NF):
        def start(self, ctx):
            (ctx.out / "been").mkdir()
        @on("flow.end")
        def end(self, batch):
            os.abort()
    """
    out = mesh.folder / "out"
    out.mkdir()
    out.chmod(0o777)
    nfs = [{"use": mesh.nf("once", body), "ring": 64}, {"use": "flow_counter"}]
    mesh.start(nfs, mesh.capture(300), out=str(out))
    found = mesh.report()
    assert mesh.outcome.report["packets"] == 3000
    assert "FileExistsError" in found["once"]["errors"][0]
    assert found["flow_counter"]["events"] > 300


# ---- events between NFs -------------------------------------------------------------------------

CHAIN = """
class Closed(Event, name="teller.closed"):
    '''A flow ended.'''
    port: int
    number: int

class Teller(NF):
    publishes = (Closed,)
    n = 0
    def __init__(self, slow_s: float = 0.0):
        self.slow_s = slow_s
    @on("flow.end")
    def end(self, batch):
        if self.n > 1000:
            stand_still()
        for view in batch:
            self.n += 1
            self.publish(Closed(port=view.src_port, number=self.n), about=view)
        time.sleep(self.slow_s)
    def checkpoint(self):
        return self.n
    def restore(self, state):
        self.n = state

class Listener(NF):
    def __init__(self, slow_s: float = 0.0):
        self.slow_s, self.numbers, self.times = slow_s, [], 0
    @on("teller.closed")
    def heard(self, batch):
        self.numbers += batch.number.tolist()
        self.times += int((batch.ts > 0).sum())
        time.sleep(self.slow_s)
    def checkpoint(self):
        return [self.numbers, self.times]
    def restore(self, state):
        self.numbers, self.times = state
    def results(self):
        in_order = self.numbers == list(range(1, len(self.numbers) + 1))
        return {"heard": len(self.numbers), "in_order": in_order, "times": self.times}
"""
HEARD_ALL = {"heard": 2000, "in_order": True, "times": 2000}


def chain(mesh: Rig, teller: float = 0.0, listener: float = 0.0) -> None:
    use = mesh.nf("chain", CHAIN)
    nfs = [
        {"use": f"{use}:Teller", "config": {"slow_s": teller}, "ring": 256, "restart": "always"},
        {"use": f"{use}:Listener", "config": {"slow_s": listener}, "restart": "always"},
    ]
    mesh.start(nfs, mesh.capture(2000))


def test_published_events_reach_other_processes_in_order(mesh):
    chain(mesh)
    found = mesh.report()
    assert found["listener"]["results"] == HEARD_ALL
    assert found["teller"]["published"] == {"teller.closed": 2000}


@pytest.mark.parametrize("killed", ["teller", "listener"])
def test_each_published_event_is_heard_once_whoever_is_killed(mesh, killed):
    chain(mesh, teller=0.02, listener=0.02)
    pid = mesh.running(killed)
    for n in range(2):
        wait_for(lambda n=n: mesh.handled(killed) > 300 * n)
        os.kill(pid, signal.SIGKILL)
        pid = mesh.running(killed, after=pid)
    found = mesh.report()
    assert mesh.outcome.restarts[killed] == 2
    assert found["listener"]["results"] == HEARD_ALL
    assert found["teller"]["published"] == {"teller.closed": 2000}
