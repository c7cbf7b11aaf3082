# SPDX-License-Identifier: Apache-2.0
"""Nodes of a played cluster whose stacks and NFs are real programs of this host.

A pod that the fake cluster places here is the program that its container names, with the token of
the Secret that the operator made, pinned as a static CPU manager would pin it; the stack is
`nfmesh stack`, spoken to under CURVE. A pod that is deleted is told to end, and goes when its
program has.
"""

import base64
import os
import signal
import threading

from fakenode import NAMESPACE, Nodes, Stack
from free_port import free_port
from joining_rig import NFMESH, namespaces
from kube_rig import Rig
from patience import PATIENCE_S

from mesh.control.keys import ClientKeys
from mesh.control.remote import Remote

ANSWER_S = 3.0
APART = namespaces()


def start(place, **spec):
    """Starts a node's stack, always at the same address, as a pod's port is."""
    if not hasattr(place, "address"):
        place.address = f"tcp://127.0.0.1:{free_port()}"
    listen = {"control": place.address, "keys": str(place.folder / "keys")}
    place.start(listen=listen, **spec)


class Host(Stack):
    """A node's stack, and its pods.

    `unpinned` holds functions whose pods nobody pins; `pods` what runs, by pod.
    """

    def __init__(self, place, kube, ended):
        super().__init__(len(os.sched_getaffinity(0)))
        self.place, self.kube, self.ended = place, kube, ended
        self.pods, self.unpinned, self.leaving = {}, set(), set()
        self.free = set(os.sched_getaffinity(0))

    def _object(self, plural, name):
        return self.kube.resources["", plural].objects[NAMESPACE, name]

    def words(self, pod):
        """Returns the command line of a pod's container, with this host's paths."""
        token = self.place.folder / f"{pod}.token"
        (container,) = self._object("pods", pod)["spec"]["containers"]
        words = list(container["args"])
        for option, value in (("--run-dir", str(self.place.run)), ("--token-file", str(token))):
            words[words.index(option) + 1] = value
        if "--net" not in APART:  # one port for all pods would not do
            at = words.index("--health-port")
            del words[at : at + 2]
        return words

    def pod_runs(self, name, pod, cores):
        super().pod_runs(name, pod, cores)
        secret = self._object("secrets", f"{name}-nf-token")
        token = self.place.folder / f"{pod}.token"
        token.write_bytes(base64.b64decode(secret["data"]["token"]))
        token.chmod(0o644)
        given = self.running[name][pod]
        before = os.sched_getaffinity(0)
        if given and name not in self.unpinned:
            os.sched_setaffinity(0, given)  # this thread's, and what it starts
        self.pods[pod] = self.place.program([*NFMESH, *self.words(pod)], pod)
        os.sched_setaffinity(0, before)

    def pod_leaves(self, pod):
        """Tells a pod to end; returns whether it has."""
        joined = self.pods.get(pod)
        if joined is None or joined.process.poll() is not None:
            return True
        if pod not in self.leaving:
            self.leaving.add(pod)
            os.kill(joined.pid, signal.SIGTERM)
            threading.Thread(target=self._wait, args=(joined.process,), daemon=True).start()
        return False

    def pod_ends(self, name, pod):
        super().pod_ends(name, pod)
        self.pods.pop(pod, None)

    def _wait(self, process):
        process.wait(PATIENCE_S)
        self.ended()


class HostNodes(Nodes):
    """Nodes whose stacks are those of `places`: node → Site."""

    def __init__(self, kube, places):
        super().__init__(kube, tuple(places))
        self.stacks = {node: Host(place, kube, self.look) for node, place in places.items()}

    def connect(self, address):
        host = address.removeprefix("tcp://").rsplit(":", 1)[0]
        place = self.stacks[self.addresses[host]].place
        return Remote(place.address, ClientKeys.read(place.folder / "keys"), ANSWER_S)

    def _end(self, pod):
        name = pod["metadata"]["labels"].get("nfmesh.io/network-function")
        node = pod["spec"].get("nodeName")
        if name and node and not self.stacks[node].pod_leaves(pod["metadata"]["name"]):
            return
        super()._end(pod)


class HostRig(Rig):
    """A cluster of such nodes; `place` is the first one's."""

    def __init__(self, places, **config):
        super().__init__(pollS=0.2, **config)
        self.places, self.place = places, next(iter(places.values()))

    def __enter__(self):
        self.stack.enter_context(self.kube)
        self.nodes = self.stack.enter_context(HostNodes(self.kube, self.places))
        self.host = next(iter(self.nodes.stacks.values()))
        self.api = self._api()
        self.operators = [self.start_operator("operator")]
        return self

    def wait(self, name, reason, **more):
        return super().wait(name, reason, patience=PATIENCE_S, **more)

    def row(self, name, node="node-1"):
        """Returns what a node's stack says of a function."""
        return self.places[node].status()["attachments"].get(name, {})
