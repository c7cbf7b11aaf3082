# SPDX-License-Identifier: Apache-2.0
"""An inline function leaves its node, or is updated, while frames pass it: each is accounted for.

Two nodes with real stacks (`kube_host.py`). The first one's port is a veth, on whose other end a
program sends numbered frames; what leaves is recorded. The function marks what it judges by its
TTL, so the record shows who let each frame pass.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("kubernetes")

from joining_rig import LOOP, site
from kube_host import HostRig, start
from kube_rig import condition, function, until
from live_rig import Namespace, why_not
from patience import PATIENCE_S
from pcap_file import packets

from mesh.kube.api import PODS

MARK = 7
GUARD = """
    class Guard(NF):
        seen = 0
        @on("packet.udp", mode="inline")
        def judge(self, batch):
            self.seen += len(batch)
            batch.rewrite(ttl=7)
        def stop(self):
            print("judged", self.seen, flush=True)
"""
SENDER = """
import select, socket, sys
from file_rig import datagram
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind((sys.argv[1], 0))
n = 0
while not select.select([sys.stdin], [], [], 0.001)[0]:
    raw.send(datagram("10.0.0.1", 4000, n.to_bytes(8, "big")))
    n += 1
print(n)
"""
IFACE = f"nfmd{os.getpid()}"


def recorded(path):
    return {"record": str(path), "name": "sink"}


class Wire:
    """A veth of this host with a sender at its other end."""

    def __enter__(self):
        self.far, self.sender = Namespace(), None
        line = ["ip", "link", "add", IFACE, "type", "veth", "peer", "name", "l0"]
        subprocess.run([*line, "netns", str(self.far.pid)], check=True)
        for file in Path("/proc/sys/net/ipv6/conf").glob(f"{IFACE}/disable_ipv6"):
            file.write_text("1")
        subprocess.run(["ip", "link", "set", IFACE, "up"], check=True)
        self.far.ip("link set l0 up")
        return self

    def begin(self):
        words = self.far.command(sys.executable, "-c", SENDER, "l0")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.sender = subprocess.Popen(words, cwd=Path(__file__).parent, **pipes)

    def end(self):
        """Stops sending; returns how many frames were sent."""
        found, _ = self.sender.communicate("\n", timeout=PATIENCE_S)
        return int(found)

    def __exit__(self, *_):
        if self.sender is not None:
            with self.sender:
                self.sender.kill()
        self.far.close()
        subprocess.run(["ip", "link", "del", IFACE], check=False, capture_output=True)


class Drained:
    """A cluster of two nodes; the function runs on the first one, and only there as yet."""

    def __init__(self, rig, wire, out):
        self.rig, self.wire, self.out = rig, wire, out

    def function(self, fail, **more):
        use = self.rig.place.code("guard", GUARD)
        self.rig.nodes.cordoned.add("node-2")
        judge = {"mode": "inline", "fail": fail, "deadlineMs": 0}  # however slow this machine is
        self.rig.apply(function("guard", use=use, cores=0, **judge, **more))
        self.rig.wait("guard", "Attached")
        (pod,) = self.rig.pods("guard")
        return self.rig.host.pods[pod["metadata"]["name"]]

    def counters(self):
        """Returns the first node's counters."""
        return Counter(self.rig.place.status()["workers"]["worker-0"]["counters"])

    def ended(self):
        """Returns how many frames have left or were dropped by the policy."""
        counters = self.counters()
        return counters["forward.packets"] + counters["inline.failed_closed"]

    def until_more(self, name, n=100):
        before = self.counters()[name]
        until(lambda: self.counters()[name] >= before + n, f"more {name}")

    def drain(self):
        """Does what `kubectl drain` and the kubelet do; ends when the pod is gone."""
        self.rig.nodes.cordoned.add("node-1")
        (pod,) = self.rig.pods("guard")
        name = pod["metadata"]["name"]
        self.rig.api.delete(PODS, name)
        until(lambda: name not in self.rig.objects("pods"), "the pod to go")

    def move(self):
        """Lets the pod come up on the second node."""
        self.rig.nodes.cordoned.discard("node-2")
        self.rig.nodes.look()
        until(lambda: self.rig.row("guard", "node-2").get("phase") == "attached")
        until(lambda: not self.rig.row("guard"), "the first stack to let it go")
        found = self.rig.wait("guard", "Attached")
        assert [row["node"] for row in found["status"]["nodes"]] == ["node-2"]

    def left(self):
        """Ends the first stack; returns (number, TTL) of each frame that left."""
        assert self.rig.place.end_stack() == 0
        frames = [frame for _, frame in packets(self.out)]
        return [(int.from_bytes(frame[42:50], "big"), frame[22]) for frame in frames]


@pytest.fixture(scope="module")
def second():
    """The node that the function moves to."""
    if reason := why_not():
        pytest.skip(reason)
    with site() as made:
        start(made, ports=[{**LOOP, "out": "sink"}, recorded(made.folder / "out.pcap")])
        yield made


@pytest.fixture
def drained(second):
    with Wire() as wire, site() as first:
        out = first.folder / "out.pcap"
        start(first, ports=[{"afpacket": IFACE, "out": "sink"}, recorded(out)])
        with HostRig({"node-1": first, "node-2": second}) as rig:
            yield Drained(rig, wire, out)
        second.leave()


@pytest.mark.parametrize("how", ["drained", "killed"])
def test_a_drained_node_loses_no_frame_that_may_pass(drained, how):
    guard = drained.function("open")
    drained.wire.begin()
    drained.until_more("inline.rewritten")
    if how == "killed":
        guard.kill()
    drained.drain()
    drained.until_more("inline.failed_open")
    assert drained.rig.row("guard")["phase"] == "away", "the stack keeps it, with its policy"
    waits = drained.rig.wait("guard", "InsufficientCpu")
    assert condition(waits, "Degraded")["status"] == "True"
    drained.move()
    drained.until_more("forward.packets")
    sent = drained.wire.end()
    until(lambda: drained.ended() == sent, "the last frame")
    judged = drained.counters()["inline.rewritten"]
    left = drained.left()
    assert [number for number, _ in left] == list(range(sent)), "all of them, once, in order"
    assert [ttl == MARK for _, ttl in left] == [True] * judged + [False] * (sent - judged)
    if how == "drained":
        assert f"judged {judged}" in guard.log.read_text(), "no verdict was lost"


def test_a_drained_node_counts_each_frame_that_may_not_pass(drained):
    guard = drained.function("closed")
    drained.wire.begin()
    drained.until_more("inline.rewritten")
    drained.drain()
    drained.until_more("inline.failed_closed")
    sent = drained.wire.end()
    until(lambda: drained.ended() == sent, "the last frame")
    found = drained.counters()
    judged = found["inline.rewritten"]
    assert found["inline.failed_closed"] == sent - judged > 0
    drained.move()
    assert drained.left() == [(number, MARK) for number in range(judged)]
    assert f"judged {judged}" in guard.log.read_text(), "no verdict was lost"


def test_an_update_loses_no_frame_and_no_verdict(drained):
    first = drained.function("open", updateStrategy={"type": "RollingUpdate"})
    drained.wire.begin()
    drained.until_more("inline.rewritten")
    drained.rig.change("guard", image="other:2")
    until(lambda: drained.rig.row("guard").get("restarts") == 1, "the next one")
    drained.until_more("inline.rewritten")
    drained.rig.wait("guard", "Attached")
    sent = drained.wire.end()
    until(lambda: drained.ended() == sent, "the last frame")
    pods = drained.rig.host.pods
    until(lambda: first not in pods.values(), "the first program to end")
    (second,) = pods.values()
    second.end()
    judged = [int(each.log.read_text().split("judged ")[1].split()[0]) for each in (first, second)]
    left = drained.left()
    assert [number for number, _ in left] == list(range(sent)), "all of them, once, in order"
    marks = [ttl == MARK for _, ttl in left]
    away = sent - sum(judged)
    assert marks == [True] * judged[0] + [False] * away + [True] * judged[1]


def test_a_stack_that_ends_lets_go_what_it_took(drained):
    guard = drained.function("closed")
    drained.wire.begin()
    drained.until_more("inline.rewritten")
    left = drained.left()
    assert left == [(number, MARK) for number in range(len(left))]
    assert f"judged {len(left)}" in guard.log.read_text()
