# SPDX-License-Identifier: Apache-2.0
"""Nodes for `fakekube.py`: what controllers, scheduler, kubelets and stacks would do there.

`Nodes` makes pods of Deployments (Recreate and RollingUpdate), places them beside a stack where
cores are left, lets them run and end; `Stack` is what the operator talks to on a node: it takes
functions, and says which of their pods are attached, and on which cores.
"""

from __future__ import annotations

import copy
import threading

from mesh.errors import ProcessError, SpecError

NAMESPACE = "edge"
STACK_LABELS = {"app.kubernetes.io/component": "stack", "app.kubernetes.io/instance": "one"}


class Stack:
    """A node's stack. Knobs: `refuses` (function → why), `is_away`, `cpus` (function → list)."""

    def __init__(self, cores):
        self.lock = threading.RLock()
        self.entries, self.tokens, self.running = {}, {}, {}
        self.refuses, self.errors, self.cpus = {}, {}, {}
        self.cores, self.free = cores, set(range(cores))
        self.is_away = False
        self.puts, self.removed, self.checks = [], [], []

    def connect(self):
        return _Link(self)

    def check(self, name):
        if name in self.refuses:
            raise SpecError(f"nfs.{name}.where", self.refuses[name])

    def pod_runs(self, name, pod, cores):
        with self.lock:
            given = sorted(self.free)[:cores]
            self.free -= set(given)
            self.running.setdefault(name, {})[pod] = given

    def pod_ends(self, name, pod):
        with self.lock:
            self.free |= set(self.running.get(name, {}).pop(pod, ()))

    def rows(self):
        with self.lock:
            return {name: self._row(name) for name in self.entries}

    def _row(self, name):
        pods = self.running.get(name)
        if name in self.errors:
            where, text = self.errors[name]
            return {"phase": "away", "error": text, "error_where": where}
        if not pods:
            return {"phase": "away", "error": ""}
        given = next(iter(pods.values()))
        every = f"0-{self.cores - 1}"
        cpus = self.cpus.get(name, ",".join(map(str, given)) if given else every)
        backing = {"w0/packets": "huge_2m", "w0/records": "huge_2m"}
        return {"phase": "attached", "cpus_allowed_list": cpus, "backing": backing, "error": ""}


class _Link:
    def __init__(self, stack):
        self.stack = stack

    def _check(self):
        if self.stack.is_away:
            raise ProcessError("the stack does not answer")

    def status(self):
        self._check()
        return {"attachments": self.stack.rows()}

    def put_nf(self, entry, token_sha256):
        self._check()
        with self.stack.lock:
            name = entry["name"]
            self.stack.puts.append(name)
            self.stack.check(name)
            self.stack.entries[name], self.stack.tokens[name] = dict(entry), token_sha256
        return {"revision": 1}

    def check_nf(self, entry):
        self._check()
        with self.stack.lock:
            self.stack.checks.append(entry["name"])
            self.stack.check(entry["name"])

    def remove_nf(self, name):
        self._check()
        with self.stack.lock:
            self.stack.entries.pop(name, None)
            self.stack.removed.append(name)
        return {"nf": name, "report": None}

    def close(self):
        """Nothing to close."""


class Nodes:
    """Plays controllers, scheduler and kubelets over a FakeKube.

    `stuck` holds names of functions whose pods never start, as {name: container state}; `refused`
    those whose pods are not even made, as {name: why}; `idle` names of pods that nobody looks at.
    """

    def __init__(self, kube, names=("node-1",), cores=8):
        self.kube = kube
        self.stacks = {name: Stack(cores) for name in names}
        self.addresses = {f"10.0.0.{i}": name for i, name in enumerate(names, 1)}
        self.cordoned, self.stuck, self.qos, self.idle = set(), {}, {}, set()
        self.refused = {}
        self.stopping = self.again = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        for node in names:
            self.add_stack(node)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping = True
        with self.kube.changed:
            self.kube.changed.notify_all()
        self.thread.join()

    def connect(self, address):
        """A line to the stack at an address, as the operator wants one."""
        host = address.removeprefix("tcp://").rsplit(":", 1)[0]
        return self.stacks[self.addresses[host]].connect()

    def add_stack(self, node):
        ip = next(ip for ip, name in self.addresses.items() if name == node)
        body = {
            "metadata": {"name": f"stack-{node}", "labels": dict(STACK_LABELS)},
            "spec": {"nodeName": node},
            "status": _running(ip, "Guaranteed"),
        }
        self.kube.create(self._of("pods"), NAMESPACE, body)

    def remove_stack(self, node):
        with self.kube.lock:
            self.kube._remove(self._of("pods"), NAMESPACE, f"stack-{node}")

    def look(self):
        """Looks at everything again: something happened on a node."""
        with self.kube.changed:
            self.again = True
            self.kube.changed.notify_all()

    def _of(self, plural):
        return next(r for (_, p), r in self.kube.resources.items() if p == plural)

    def _run(self):
        seen = -1
        while not self.stopping:
            with self.kube.changed:
                while self.kube.version == seen and not self.stopping and not self.again:
                    self.kube.changed.wait(0.5)
                seen, self.again = self.kube.version, False
                self._round()

    def _round(self):
        """One look at everything, with the server locked."""
        pods = self._of("pods").objects
        for pod in list(pods.values()):
            if "deletionTimestamp" in pod["metadata"]:
                self._end(pod)
        owned = {}
        for pod in pods.values():
            for owner in pod["metadata"].get("ownerReferences", ()):
                owned.setdefault(owner["uid"], []).append(pod)
        for deployment in list(self._of("deployments").objects.values()):
            self._deploy(deployment, owned.get(deployment["metadata"]["uid"], []))
        for pod in list(pods.values()):
            if pod["metadata"]["name"] in self.idle:
                continue
            if not pod["spec"].get("nodeName"):
                self._place(pod)
            elif pod.get("status", {}).get("phase") == "Pending":
                self._begin(pod)

    def _deploy(self, deployment, pods):
        spec, name = deployment["spec"], deployment["metadata"]["name"]
        if spec["strategy"]["type"] == "RollingUpdate" or not _have_another(spec, pods):
            pods = [p for p in pods if "deletionTimestamp" not in p["metadata"]]
        revision = spec["template"]["metadata"]["labels"]["nfmesh.io/revision"]
        new = [p for p in pods if p["metadata"]["labels"]["nfmesh.io/revision"] == revision]
        old = [p for p in pods if p not in new]
        wanted, strategy = spec["replicas"], spec["strategy"]
        ready = [p for p in new if p.get("status", {}).get("phase") == "Running"]
        rolling = strategy["type"] == "RollingUpdate"
        leave = old if not rolling else old[: max(0, len(old) + len(ready) - wanted)]
        if rolling and strategy["rollingUpdate"]["maxUnavailable"]:
            leave = old
        surge = strategy.get("rollingUpdate", {}).get("maxSurge", 0)
        room = wanted + surge - len(pods) if old else wanted - len(new)
        for pod in [*leave, *new[wanted:]]:
            if "deletionTimestamp" in pod["metadata"]:
                continue
            self.kube.delete(self._of("pods"), NAMESPACE, pod["metadata"]["name"])
        for _ in range(max(0, min(room, wanted - len(new))) if name not in self.refused else 0):
            self._make_pod(deployment)
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(pods),
            "updatedReplicas": len(new),
        }
        if name in self.refused:
            no = {"type": "ReplicaFailure", "status": "True", "message": self.refused[name]}
            status["conditions"] = [no]
        if deployment.get("status") != status:
            self._status("deployments", name, lambda _: status)

    def _make_pod(self, deployment):
        template = copy.deepcopy(deployment["spec"]["template"])
        name = deployment["metadata"]["name"]
        owner = {"kind": "Deployment", "name": name, "uid": deployment["metadata"]["uid"]}
        metadata = {**template["metadata"], "generateName": f"{name}-", "ownerReferences": [owner]}
        body = {"metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}}
        self.kube.create(self._of("pods"), NAMESPACE, body)

    def _place(self, pod):
        labels, cores = pod["metadata"]["labels"], _cores(pod)
        pods = self._of("pods").objects.values()
        taken = {
            p["spec"].get("nodeName")
            for p in pods
            if all(
                p["metadata"]["labels"].get(key) == labels[key]
                for key in ("nfmesh.io/network-function", "nfmesh.io/revision")
            )
        }
        for node, stack in self.stacks.items():
            has_stack = any(
                p["metadata"]["name"] == f"stack-{node}" and p["spec"].get("nodeName") == node
                for p in pods
            )
            used = sum(_cores(p) for p in pods if p["spec"].get("nodeName") == node)
            fits = used + cores <= stack.cores
            if has_stack and fits and node not in taken and node not in self.cordoned:
                self._bind(pod, node)
                return
        text = f"0/{len(self.stacks)} nodes are available: Insufficient cpu."
        no = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}
        self._status("pods", pod["metadata"]["name"], lambda s: {**s, "conditions": [no]})

    def _bind(self, pod, node):
        def bound(found):
            found["spec"]["nodeName"] = node
            return found

        self.kube.update(self._of("pods"), NAMESPACE, pod["metadata"]["name"], bound)

    def _begin(self, pod):
        name = pod["metadata"]["labels"]["nfmesh.io/network-function"]
        node = pod["spec"]["nodeName"]
        if name in self.stuck:
            waiting = [{"name": "nf", "state": {"waiting": self.stuck[name]}}]
            self._status(
                "pods", pod["metadata"]["name"], lambda s: {**s, "containerStatuses": waiting}
            )
            return
        self.stacks[node].pod_runs(name, pod["metadata"]["name"], _cores(pod))
        running = _running("10.1.0.1", self.qos.get(name, "Guaranteed"))
        self._status("pods", pod["metadata"]["name"], lambda _: running)

    def _end(self, pod):
        name = pod["metadata"]["labels"].get("nfmesh.io/network-function")
        node = pod["spec"].get("nodeName")
        if name is not None and node in self.stacks:
            self.stacks[node].pod_ends(name, pod["metadata"]["name"])
        self.kube._remove(self._of("pods"), NAMESPACE, pod["metadata"]["name"])

    def _status(self, plural, name, change):
        self.kube.update(
            self._of(plural),
            NAMESPACE,
            name,
            lambda found: {**found, "status": change(found.get("status", {}))},
            "status",
        )


def _have_another(spec, pods):
    """True when pods are of an older revision, which Recreate waits for."""
    key = "nfmesh.io/revision"
    revision = spec["template"]["metadata"]["labels"][key]
    return any(pod["metadata"]["labels"][key] != revision for pod in pods)


def _cores(pod):
    containers = pod["spec"].get("containers", ())
    cpu = containers[0]["resources"]["requests"]["cpu"] if containers else "0"
    return 0 if cpu.endswith("m") else int(cpu)


def _running(ip, qos):
    ready = {"type": "Ready", "status": "True"}
    return {"phase": "Running", "qosClass": qos, "podIP": ip, "conditions": [ready]}
