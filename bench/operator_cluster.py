# SPDX-License-Identifier: Apache-2.0
"""Plays the cluster of the bench `operator` with the rigs of the tests; prints a JSON line.

`python -m bench.operator_cluster fake|real N IDLE_S`, with the tests' folder in PYTHONPATH.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from multiprocessing.managers import BaseManager
from typing import Any

from fakekube import FakeKube
from fakekubelet import Kubelets
from fakenode import NAMESPACE, Nodes
from kube_rig import BUDGET, api_of, condition, function, settings, until
from real_kube import CONTROLLERS, RealKube, missing

from mesh.errors import ApiError
from mesh.kube.api import CHAINS, FUNCTIONS
from mesh.kube.crd import crds

NODES = [f"node-{i}" for i in range(1, 5)]
CORES = 64
PATIENCE_S = 300.0
POLL_S = 1.0


class Cluster:
    """An API server, nodes, and the operator in a process of its own."""

    def __init__(self, kind: str, stack: ExitStack) -> None:
        self.url, self.token, self.authority = "", "", ""
        if kind == "fake":
            self._play(stack)
        else:
            self._start(stack)
        self.manager = self._serve_stacks()
        command = [sys.executable, "-m", "bench.operator_child"]
        self.child = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self.child.stdin.close)
        own = settings(budget=BUDGET).model_dump(by_alias=True)
        given = {"url": self.url, "token": self.token, "authority": self.authority,
                 "manager": self.manager, "namespace": NAMESPACE,
                 "settings": {**own, "pollS": POLL_S}}  # fmt: skip
        self.ask(given)
        until(lambda: self.ask("?")["leads"], "an operator that leads", PATIENCE_S)

    def _play(self, stack: ExitStack) -> None:
        kube = stack.enter_context(FakeKube())
        for crd in crds().values():
            kube.define(crd)
        self.nodes = stack.enter_context(Nodes(kube, NODES, CORES))
        self.url = kube.url
        self.api = api_of(kube.url)
        stack.callback(self.api.close)

    def _start(self, stack: ExitStack) -> None:
        kube = stack.enter_context(RealKube(controllers=True))
        kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for crd in crds().values():
            kube.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        self.url, self.token, self.authority = kube.url, "admin-token", str(kube.authority)
        self.api = api_of(self.url, self.token, authority=self.authority)
        stack.callback(self.api.close)
        until(self._served, "custom resources", PATIENCE_S)
        lines = api_of(self.url, self.token, authority=self.authority)
        stack.callback(lines.close)
        self.nodes = stack.enter_context(Kubelets(kube, lines, NODES, CORES))
        self.nodes.add_stacks()

    def _served(self) -> bool:
        try:
            self.api.list(FUNCTIONS)
            self.api.list(CHAINS)
        except ApiError:
            return False
        return True

    def _serve_stacks(self) -> tuple[str, int]:
        class Manager(BaseManager):
            pass

        orders = ("status", "check_nf", "put_nf", "remove_nf")
        Manager.register("stack_at", self.nodes.connect, exposed=orders)
        server = Manager(("127.0.0.1", 0), authkey=b"bench").get_server()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.address

    def ask(self, what: Any) -> Any:
        """Sends a line to the operator; all but the first one have an answer."""
        self.child.stdin.write(json.dumps(what) + "\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline()) if what == "?" else None

    def ready(self) -> int:
        items = self.api.list(FUNCTIONS)["items"]
        return sum(1 for each in items if condition(each, "Ready").get("status") == "True")


def writes(statistics: dict[str, float], leases: bool = False) -> int:
    """Counts the operator's writes: those on leases, or all others."""
    return sum(
        int(n)
        for key, n in statistics.items()
        if key.startswith(("api.POST", "api.PUT", "api.PATCH", "api.DELETE"))
        and ("leases" in key) == leases
    )


def measure(kind: str, n: int, idle_s: float) -> dict[str, float]:
    with ExitStack() as stack:
        cluster = Cluster(kind, stack)
        before = cluster.ask("?")
        began = time.monotonic()
        for i in range(n):
            cluster.api.create(FUNCTIONS, function(f"nf-{i}"))
        created = time.monotonic() - began
        until(lambda: cluster.ready() == n, f"{n} functions that are ready", PATIENCE_S)
        ready = time.monotonic() - began
        after = cluster.ask("?")
        until(lambda: cluster.ask("?")["queue.later"] == 0, "an idle operator", PATIENCE_S)
        start, at = cluster.ask("?"), time.monotonic()
        time.sleep(idle_s)  # this is what is measured
        end, passed = cluster.ask("?"), time.monotonic() - at
        return {
            "created_s": created,
            "ready_s": ready,
            "writes": (writes(after) - writes(before)) / n,
            "cpu_s": after["cpu_s"] - before["cpu_s"],
            "idle_cpu": 100.0 * (end["cpu_s"] - start["cpu_s"]) / passed,
            "idle_writes": writes(end) - writes(start),
            "idle_renewals": writes(end, leases=True) - writes(start, leases=True),
            "rss": end["rss"],
        }


def main() -> None:
    kind, n, idle_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    logging.basicConfig(level="ERROR")
    if kind == "real" and (text := missing(CONTROLLERS)):
        print(text, file=sys.stderr)
        print(json.dumps({}))
        return
    print(json.dumps(measure(kind, n, idle_s)))


if __name__ == "__main__":
    main()
