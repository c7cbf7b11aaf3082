# SPDX-License-Identifier: Apache-2.0
"""The operator with a real stack and real NFs, as processes of this host; the cluster is played.

A pod that the fake cluster places here is `nfmesh nf` with the token of the Secret that the
operator made, pinned as a static CPU manager would pin it; the stack is `nfmesh stack`, spoken to
under CURVE.
"""

import base64
import os
import signal
from contextlib import ExitStack

import pytest

pytest.importorskip("kubernetes")

from fakenode import NAMESPACE, Nodes, Stack
from joining_rig import NFMESH, WAIT_S, site
from kube_rig import Rig, condition, function, until
from real_kube import free_port

from mesh.control.keys import ClientKeys
from mesh.control.remote import Remote
from mesh.kube.api import FUNCTIONS

ANSWER_S = 3.0


class Host(Stack):
    """A node's stack: this host's. `unpinned` holds functions whose pods nobody pins."""

    def __init__(self, place, secrets):
        super().__init__(len(os.sched_getaffinity(0)))
        self.place, self.secrets, self.pods, self.unpinned = place, secrets, {}, set()
        self.free = set(os.sched_getaffinity(0))

    def pod_runs(self, name, pod, cores):
        super().pod_runs(name, pod, cores)
        secret = self.secrets[NAMESPACE, f"{name}-nf-token"]
        token = self.place.folder / f"{pod}.token"
        token.write_bytes(base64.b64decode(secret["data"]["token"]))
        token.chmod(0o644)
        words = [*NFMESH, "nf", "--name", name, "--run-dir", str(self.place.run)]
        words += ["--token-file", str(token), "--use", "flow_counter"]
        given = self.running[name][pod]
        before = os.sched_getaffinity(0)
        if given and name not in self.unpinned:
            os.sched_setaffinity(0, given)  # this thread's, and what it starts
        self.pods[pod] = self.place.program(words, pod)
        os.sched_setaffinity(0, before)

    def pod_ends(self, name, pod):
        super().pod_ends(name, pod)
        if (joined := self.pods.pop(pod, None)) is not None and joined.process.poll() is None:
            os.kill(joined.pid, signal.SIGTERM)


class HostNodes(Nodes):
    """One node, this host."""

    def __init__(self, kube, place):
        super().__init__(kube, ("node-1",))
        resource = kube.resources["", "secrets"]
        self.host = self.stacks["node-1"] = Host(place, resource.objects)
        self.place = place

    def connect(self, _address):
        return Remote(self.place.address, ClientKeys.read(self.place.folder / "keys"), ANSWER_S)


class HostRig(Rig):
    def __init__(self, place):
        super().__init__(pollS=0.2)
        self.place = place

    def __enter__(self):
        self.stack.enter_context(self.kube)
        self.nodes = self.stack.enter_context(HostNodes(self.kube, self.place))
        self.api = self._api()
        self.operators = [self.start_operator("operator")]
        return self

    def wait(self, name, reason, **more):
        return super().wait(name, reason, patience=WAIT_S, **more)

    def row(self, name):
        return self.place.status()["attachments"].get(name, {})


@pytest.fixture(scope="module")
def place():
    with site() as made:
        made.address = f"tcp://127.0.0.1:{free_port()}"
        start(made)
        yield made


def start(place):
    """Starts the stack, always at the same address, as a pod's port is."""
    listen = {"control": place.address, "keys": str(place.folder / "keys")}
    place.start(listen=listen)


@pytest.fixture
def rig(place):
    with ExitStack() as stack:
        yield stack.enter_context(HostRig(place))
    place.leave()


def test_function_runs_on_its_core_and_hears(rig):
    rig.apply(function("counter", use="flow_counter"))
    found = rig.wait("counter", "Attached")
    (row,) = found["status"]["nodes"]
    assert row["attached"] is True
    assert row["cores"] == rig.row("counter")["cpus_allowed_list"]
    assert row["backing"]
    assert found["status"]["cores"].isdigit()
    rig.place.hears("counter")

    rig.change("counter", where="tcp port 80")
    pod = rig.pods("counter")[0]["metadata"]["uid"]
    until(lambda: _where(rig, "counter") == "tcp port 80", "its filter", WAIT_S)
    assert rig.pods("counter")[0]["metadata"]["uid"] == pod

    rig.api.delete(FUNCTIONS, "counter")
    until(lambda: not rig.row("counter"), "the stack to forget it", WAIT_S)
    rig.wait_gone("networkfunctions", "counter")


def _where(rig, name):
    rows = [row for row in rig.place.status()["subscriptions"] if row["nf"] == name]
    return rows[0]["where"] if rows else None


def test_function_that_nobody_pins_is_said_to_share_cores(rig):
    rig.nodes.host.unpinned.add("counter")
    rig.apply(function("counter", use="flow_counter"))
    found = rig.wait("counter", "CoresShared")
    assert (
        "is the CPU manager policy of that kubelet static?" in condition(found, "Ready")["message"]
    )


def test_filter_that_is_wrong_is_said_and_mended(rig):
    rig.apply(function("counter", use="flow_counter", cores=0, where="prot 6"))
    found = rig.wait("counter", "GraphInvalid")
    assert "prot" in condition(found, "Degraded")["message"]
    rig.change("counter", where="tcp")
    rig.wait("counter", "Attached")


def test_rolling_update_hands_over_from_pod_to_pod(rig):
    rolling = {"type": "RollingUpdate"}
    rig.apply(function("roller", use="flow_counter", cores=0, updateStrategy=rolling))
    rig.wait("roller", "Attached")
    first = rig.pods("roller")[0]["metadata"]["name"]
    rig.change("roller", image="other:2")
    until(lambda: first not in rig.nodes.host.pods, "the first pod to leave", WAIT_S)
    until(lambda: rig.row("roller").get("restarts") == 1, "the second to attach", WAIT_S)
    found = rig.wait("roller", "Attached")
    assert rig.nodes.host.removed == [], "the stack kept its ring and its policy"
    assert first not in [row["pod"] for row in found["status"]["nodes"]]
    rig.place.hears("roller")


def test_functions_attach_again_to_a_stack_that_was_killed(rig):
    rig.apply(function("counter", use="flow_counter", cores=0))
    rig.wait("counter", "Attached")
    rig.place.kill_stack()
    rig.wait("counter", "StackUnreachable")
    start(rig.place)
    rig.wait("counter", "Attached")
    rig.place.hears("counter")
