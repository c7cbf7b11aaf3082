# SPDX-License-Identifier: Apache-2.0
"""Kubelets of nodes that do not exist, over a real API server: pods that were placed there run,
and end when they are deleted. With a `fakenode.Stack` per node, which pods attach to."""

import threading

from fakenode import NAMESPACE, STACK_LABELS, Stack
from kube_rig import until

from mesh.errors import ApiError
from mesh.kube.api import PODS
from mesh.kube.reflector import Reflector

HUGE = "64Mi"


class Kubelets:
    """Plays the kubelets; use it in a `with`.

    Args:
        kube: a RealKube.
        api: a line to it, in the namespace of the pods.
        nodes: names; cores: of each.
    """

    def __init__(self, kube, api, nodes, cores):
        self.kube, self.api, self.cores = kube, api, cores
        self.stacks = {node: Stack(cores) for node in nodes}
        self.ips = {node: f"10.0.{i // 250}.{i % 250 + 1}" for i, node in enumerate(nodes)}
        self.todo, self.changed, self.stopping = set(), threading.Condition(), False
        self.running = {}
        self.reflector = Reflector(api, PODS, self._heard)
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(2)]

    def __enter__(self):
        for node in self.stacks:
            self._make_node(node)
        self.reflector.start()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.reflector.stop()
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()

    def connect(self, address):
        """A line to the stack at an address, as the operator wants one."""
        host = address.removeprefix("tcp://").rsplit(":", 1)[0]
        return next(self.stacks[node].connect() for node, ip in self.ips.items() if ip == host)

    def add_stacks(self):
        """Runs the stack on every node, as a DaemonSet."""
        container = {"name": "stack", "image": "nfmesh:1"}
        body = {
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "stack"},
            "spec": {"selector": {"matchLabels": STACK_LABELS}, "template": {
                "metadata": {"labels": STACK_LABELS}, "spec": {"containers": [container]}}},
        }  # fmt: skip
        self.kube.request("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets", body)
        until(lambda: self._stacks_up() == len(self.stacks), "a stack pod on each node")

    def _stacks_up(self):
        return sum(1 for pod in self.reflector.store
                   if pod["metadata"]["labels"].get("app.kubernetes.io/component") == "stack"
                   and pod["status"]["phase"] == "Running")  # fmt: skip

    def _make_node(self, name):
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
        self.kube.request("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
        amounts = {"cpu": str(self.cores), "memory": "256Gi", "pods": "1000",
                   "ephemeral-storage": "500Gi", "hugepages-2Mi": HUGE}  # fmt: skip
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
        kind = "application/merge-patch+json"
        path = f"/api/v1/nodes/{name}"
        self.kube.request("PATCH", f"{path}/status", {"status": status}, kind=kind)
        self.kube.request("PATCH", path, {"spec": {"taints": []}}, kind=kind)

    def _heard(self, _before, after):
        if after is not None and after["spec"].get("nodeName"):
            with self.changed:
                self.todo.add(after["metadata"]["name"])
                self.changed.notify()

    def _run(self):
        while True:
            with self.changed:
                while not self.todo and not self.stopping:
                    self.changed.wait()
                if self.stopping:
                    return
                name = self.todo.pop()
            if (pod := self.reflector.store.get(name)) is not None:
                try:
                    self._look_at(pod)
                except ApiError as error:
                    if error.status not in (404, 409):
                        self._heard(None, pod)
                except OSError as error:  # the server is away, or it refused
                    if getattr(error, "code", None) not in (404, 409):
                        self._heard(None, pod)

    def _look_at(self, pod):
        metadata, node = pod["metadata"], pod["spec"]["nodeName"]
        function = metadata["labels"].get("nfmesh.io/network-function")
        if "deletionTimestamp" in metadata:
            if function:
                self.stacks[node].pod_ends(function, metadata["name"])
            path = PODS.path(NAMESPACE, metadata["name"])
            now = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
            self.kube.request("DELETE", path, now)
        elif pod["status"]["phase"] == "Pending":
            if function and metadata["uid"] not in self.running:
                self.running[metadata["uid"]] = True
                cpu = pod["spec"]["containers"][0]["resources"]["requests"]["cpu"]
                cores = 0 if cpu.endswith("m") else int(cpu)
                self.stacks[node].pod_runs(function, metadata["name"], cores)
            ready = {"type": "Ready", "status": "True"}
            placed = {"type": "PodScheduled", "status": "True"}
            ip = "10.1.0.1" if function else self.ips[node]
            status = {"phase": "Running", "podIP": ip, "conditions": [ready, placed]}
            self.api.patch(PODS, metadata["name"], {"status": status}, "status")
